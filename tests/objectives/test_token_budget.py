"""The token budget in the objectives: what is kept is worked on, what is dropped is as if it were not there."""

import pytest
import torch

from mri_fm.errors import UserError
from mri_fm.inputs import Inputs
from mri_fm.model_config import HeadConfig, ModelConfig
from mri_fm.objectives import JEPA, JEPAVCR, MAE, OBJECTIVES, MAESpectral
from mri_fm.objectives.hybrid import Hybrid

SIZE = (8, 16, 16)
HEAD = HeadConfig(width=24, depth=1, heads=3)
MODEL = ModelConfig(width=24, depth=2, heads=3, patch=[4, 4, 4], predictor=HEAD, decoder=HEAD)
POSITIONS = torch.tensor([7, 3, 12])
SCHEDULE = {"spectral_weight": 0.01, "ema": 0.99}
UNALIGNED = {"shared_mask": False}


def volumes() -> tuple[torch.Tensor, torch.Tensor]:
    """Noise in a box of 12 of the 32 patches, background elsewhere."""
    foreground = torch.zeros(3, 1, *SIZE, dtype=torch.bool)
    foreground[:, :, :, 4:12, 4:16] = True
    noise = torch.randn(3, 1, *SIZE, generator=torch.Generator().manual_seed(2))
    return torch.where(foreground, noise, -2.0), foreground


def build(cls, **options):
    return cls(cls.Config(**({"token_budget": 0.45} | options)), MODEL, SIZE, seed=4)


@pytest.mark.parametrize("cls", [MAE, MAESpectral, JEPA, JEPAVCR, Hybrid])
def test_the_mask_ratio_counts_kept_tokens_and_the_step_costs_less(cls):
    options = UNALIGNED if cls is JEPAVCR else {}
    budgeted, plain = build(cls, **options), build(cls, token_budget=1.0, **options)
    x, foreground = volumes()
    mask = budgeted.mask(Inputs(x, POSITIONS, 0, foreground))
    assert (mask.kept_BK.shape[1], mask.hidden_BM.shape[1], mask.visible_BV.shape[1]) == (14, 11, 3)
    assert torch.cat([mask.visible_BV, mask.hidden_BM], dim=1).sort(dim=1).values.equal(mask.kept_BK)
    assert mask.kept_BK.gather(1, mask.hidden_in_kept_BM).equal(mask.hidden_BM)
    assert budgeted.flops_per_sample() < 0.5 * plain.flops_per_sample()
    loss, _ = budgeted(Inputs(x, POSITIONS, 0, foreground), SCHEDULE)
    loss.backward()
    assert torch.isfinite(loss)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_full_budget_takes_the_plain_path_bitwise(name):
    objective = OBJECTIVES[name](OBJECTIVES[name].Config(), MODEL, SIZE, seed=4)
    x, foreground = volumes()
    assert objective.mask(Inputs(x, POSITIONS, 0, foreground)).kept_BK is None
    assert objective(Inputs(x, POSITIONS, 0, foreground), SCHEDULE)[0].equal(objective(Inputs(x, POSITIONS, 0), SCHEDULE)[0])


@pytest.mark.parametrize("cls", [MAE, JEPA, JEPAVCR, Hybrid])
def test_dropped_patches_change_nothing(cls):
    """Not even the teacher sees them."""
    objective = build(cls, **UNALIGNED)
    x, foreground = volumes()
    kept_BK = objective.mask(Inputs(x, POSITIONS, 0, foreground)).kept_BK
    dropped = ~torch.zeros(3, 32, dtype=torch.bool).scatter(1, kept_BK, True).reshape(3, 1, 2, 4, 4)
    for axis in (2, 3, 4):
        dropped = dropped.repeat_interleave(4, dim=axis)
    assert dropped.any()
    losses = [objective(Inputs(volume, POSITIONS, 0, foreground), SCHEDULE)[0] for volume in (x, torch.where(dropped, 5.0, x))]
    assert losses[0].equal(losses[1])


def test_in_the_mosaic_a_dropped_patch_is_the_truth():
    objective = build(MAESpectral)
    x, foreground = volumes()
    mosaic, hidden = objective.reconstruct(Inputs(x, POSITIONS, 0, foreground))
    assert mosaic[~hidden].equal(x[~hidden])
    assert hidden.float().mean() == pytest.approx(11 / 32)


def test_a_batch_is_the_mean_of_its_samples_with_a_budget():
    objective = build(JEPA).double()
    x, foreground = volumes()
    x = x.double()
    together = objective(Inputs(x, POSITIONS, 0, foreground), SCHEDULE)[0]
    alone = [objective(Inputs(x[i : i + 1], POSITIONS[i : i + 1], 9, foreground[i : i + 1]), SCHEDULE)[0] for i in range(3)]
    torch.testing.assert_close(together, torch.stack(alone).mean(), rtol=1e-12, atol=0)


def test_what_cannot_be_is_refused():
    with pytest.raises(UserError, match="shared_mask=false"):
        JEPAVCR.Config(token_budget=0.5)
    with pytest.raises(UserError, match=r"token_budget=1\.5"):
        MAE.Config(token_budget=1.5)
    with pytest.raises(ValueError, match="foreground"):
        build(MAE)(Inputs(volumes()[0], POSITIONS, 0), {})


def test_a_volume_that_is_all_background_is_finite():
    x = torch.zeros(3, 1, *SIZE)
    loss, _ = build(MAE)(Inputs(x, POSITIONS, 0, torch.zeros_like(x, dtype=torch.bool)), {})
    assert torch.isfinite(loss)
