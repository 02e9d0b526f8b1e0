"""Losses that follow the foreground: hidden tokens of JEPA by their share of it, hidden voxels of MAE by whether they are."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mri_fm.config import load_config
from mri_fm.errors import UserError
from mri_fm.inputs import Inputs
from mri_fm.losses.spectral import MODES, spectral_loss_reference
from mri_fm.model_config import HeadConfig, ModelConfig
from mri_fm.models.patches import patchify
from mri_fm.objectives import JEPA, MAE, OBJECTIVES, Hybrid, MAESpectral, Objective
from mri_fm.objectives.base import sample_means

SIZE = (8, 16, 16)
HEAD = HeadConfig(width=24, depth=1, heads=3)
MODEL = ModelConfig(width=24, depth=1, heads=3, patch=[4, 4, 4], predictor=HEAD, decoder=HEAD)
SCHEDULE = {"spectral_weight": 0.5}
JEPAS = [name for name, cls in OBJECTIVES.items() if issubclass(cls, JEPA)]
MAES = [name for name, cls in OBJECTIVES.items() if issubclass(cls, MAE)]


def build(name: str, **options) -> Objective:
    return OBJECTIVES[name](OBJECTIVES[name].Config(**options), MODEL, SIZE, seed=4)


def inputs(batch: int = 3) -> Inputs:
    """Noise in an ellipsoid that cuts through patches, air around it."""
    z, y, x = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in SIZE), indexing="ij")
    foreground = (z**2 + (y + 0.3) ** 2 + x**2 < 0.6).repeat(batch, 1, 1, 1, 1)
    noise = torch.randn(batch, 1, *SIZE, generator=torch.Generator().manual_seed(2))
    return Inputs(torch.where(foreground, noise, -1.0).double(), torch.arange(40, 40 + batch), 40, foreground)


def shares(given: Inputs, floor: float) -> Tensor:
    return patchify(given.foreground_BCZYX, (4, 4, 4)).double().mean(2).clamp_min(floor)


def weighted(error_BM: Tensor, weight_BM: Tensor) -> Tensor:
    rows = [(error * weight).sum() / weight.sum() for error, weight in zip(error_BM, weight_BM, strict=True)]
    return torch.stack(rows).mean()


@pytest.mark.parametrize("floor", [0.0, 0.1])
@pytest.mark.parametrize("options", [{}, {"token_budget": 0.6}, {"shared_mask": True}, {"mask_sets": 2}])
def test_tokens_count_by_their_share_of_foreground(options, floor):
    objective, given = build("jepa", token_weight="foreground", token_weight_floor=floor, **options).double(), inputs()
    masks = objective.masks(given)
    features = objective.features(given, masks)
    hidden_BM = torch.cat([mask.hidden_BM for mask in masks], dim=1)
    error_BM = (features.pred_BMD - features.target_BMD).abs().mean(2)
    expected = weighted(error_BM, shares(given, floor).gather(1, hidden_BM))
    torch.testing.assert_close(objective(given, {})[0], expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", JEPAS)
def test_equal_shares_are_the_plain_loss(name):
    given = replace(inputs(), foreground_BCZYX=torch.ones(3, 1, *SIZE, dtype=torch.bool))
    plain, weighted = (build(name, token_weight=weight).double()(given, {})[0] for weight in ("equal", "foreground"))
    torch.testing.assert_close(plain, weighted, rtol=1e-12, atol=0)


@pytest.mark.parametrize("patch_norm", [False, True])
@pytest.mark.parametrize("power", [1.0, 2.0])
@pytest.mark.parametrize("options", [{}, {"token_budget": 0.6}])
def test_background_voxels_do_not_count(options, power, patch_norm):
    objective = build("mae", background_loss=False, power=power, patch_norm=patch_norm, **options).double()
    given = inputs()
    pred_BMP, hidden_BM = objective.predict(given)
    index = hidden_BM[:, :, None].expand(-1, -1, 64)
    target_BMP, inside_BMP = (patchify(v, (4, 4, 4)).gather(1, index) for v in (given.x_BCZYX, given.foreground_BCZYX))
    if patch_norm:
        variance, mean = torch.var_mean(target_BMP, dim=2, keepdim=True, correction=0)
        target_BMP = (target_BMP - mean) / (variance + 1e-6).sqrt()
    error_BMP = (pred_BMP - target_BMP).abs() ** power / power
    expected = weighted(error_BMP.flatten(1), inside_BMP.flatten(1).double())
    torch.testing.assert_close(objective(given, {})[0], expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", MAES)
def test_what_is_painted_into_the_background_changes_no_loss(name, mode):
    options = {"mode": mode} if name == "mae_spectral" else {}
    objective, given = build(name, background_loss=False, **options).double(), inputs()
    with torch.no_grad():
        before = objective(given, SCHEDULE)[0]
        outside = ~given.foreground_BCZYX
        decode = objective.decode

        def decode_with_garbage_in_the_background(_inputs, mask, context_BVD):
            index = mask.hidden_BM[:, :, None].expand(-1, -1, 64)
            return decode(_inputs, mask, context_BVD) + 9 * patchify(outside, (4, 4, 4)).gather(1, index)

        objective.decode = decode_with_garbage_in_the_background
        torch.testing.assert_close(objective(given, SCHEDULE)[0], before, rtol=1e-12, atol=0)
        objective.config.background_loss = True
        assert not objective(given, SCHEDULE)[0].isclose(before, rtol=1e-2)


@pytest.mark.parametrize("patch_norm", [False, True])
@pytest.mark.parametrize("power", [1.0, 2.0])
def test_the_gradient_ratio_is_that_of_what_counts(power, patch_norm):
    objective = build("mae_spectral", background_loss=False, power=power, patch_norm=patch_norm).double()
    given = inputs()
    _, metrics = objective(given, SCHEDULE)
    pred_BMP, hidden_BM = objective.predict(given)
    leaf, x = pred_BMP.detach().requires_grad_(), given.x_BCZYX
    mosaic = torch.where(given.foreground_BCZYX, objective.mosaic(leaf, x, hidden_BM), x)
    weight_BMP = objective.voxel_weight(given, hidden_BM)
    losses = spectral_loss_reference(mosaic, x), objective.reconstruction_loss(leaf, x, hidden_BM, weight_BMP)
    torch.testing.assert_close(metrics["loss_spectral"], losses[0].detach(), rtol=1e-8, atol=0)
    spectral, reconstruction = (torch.autograd.grad(loss, leaf)[0].norm() for loss in losses)
    torch.testing.assert_close(metrics["spectral_gradient_ratio"], spectral / reconstruction, rtol=1e-8, atol=0)


FOLLOWING = [(name, {"token_weight": "foreground"}) for name in JEPAS] + [(name, {"background_loss": False}) for name in MAES]


@pytest.mark.parametrize(("name", "options"), FOLLOWING)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_sample_of_background_alone_adds_nothing_and_is_finite(name, options, dtype):
    cls = OBJECTIVES[name]
    regulariser = {"vcr_weight": 0.0} if name == "jepa_vcr" else {"sigreg_weight": 0.0} if name == "jepa_sigreg" else {}
    if issubclass(cls, Hybrid):
        options = {"token_weight": "foreground", "background_loss": False}
    objective = build(name, **options, **regulariser, shared_mask=False).to(dtype)
    given = inputs(1)
    both = Inputs(
        torch.cat([given.x_BCZYX, torch.full_like(given.x_BCZYX, -1.0)]).float(),
        torch.tensor([40, 41]),
        40,
        torch.cat([given.foreground_BCZYX, torch.zeros_like(given.foreground_BCZYX)]),
    )
    alone = replace(given, x_BCZYX=given.x_BCZYX.float())
    loss, metrics = objective(both, SCHEDULE)
    loss.backward()
    assert all(value.isfinite() for value in (loss, *metrics.values()))
    assert all(p.grad.isfinite().all() for p in objective.parameters() if p.grad is not None)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(loss, objective(alone, SCHEDULE)[0] / 2, rtol=tolerance, atol=0)


@pytest.mark.parametrize(("name", "options"), FOLLOWING)
def test_a_loss_that_follows_the_foreground_needs_one(name, options):
    with pytest.raises(ValueError, match="need foreground_BCZYX"):
        build(name, **options)(replace(inputs(), foreground_BCZYX=None), SCHEDULE)


def test_the_mean_of_a_sample_follows_its_weights_in_float64():
    error = torch.arange(12.0, dtype=torch.float64).view(2, 3, 2)
    weight = torch.tensor([[1.0, 0.0, 3.0], [0.0, 0.0, 0.0]])
    assert sample_means(error, weight).tolist() == pytest.approx([(0.5 * 1 + 4.5 * 3) / 4, 0.0], rel=1e-12)
    assert sample_means(error, torch.ones(2, 3, 2)).tolist() == sample_means(error).tolist() == [2.5, 8.5]


@pytest.mark.parametrize(
    ("name", "word", "message"),
    [
        ("jepa", "objective.token_weight=tissue", "token_weight=tissue is not one of equal, foreground"),
        ("jepa", "objective.token_weight_floor=1.5", "token_weight_floor=1.5 must lie in"),
        ("mae", "objective.background_loss=maybe", "background_loss"),
    ],
)
def test_mistakes_are_named_when_the_configuration_is_read(name, word, message):
    with pytest.raises(UserError, match=message):
        load_config(name, [word, "data.corpus=C", "run.dir=R"])


def test_the_default_follows_nothing():
    assert MAE.Config().background_loss
    assert JEPA.Config().token_weight == "equal"
    assert MAESpectral.Config().background_loss
