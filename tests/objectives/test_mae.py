import pytest
import torch
from torch import Tensor

from mri_fm.inputs import Inputs
from mri_fm.losses.spectral import spectral_loss_reference
from mri_fm.model_config import HeadConfig, ModelConfig
from mri_fm.models.patches import patchify
from mri_fm.objectives import MAE, MAESpectral
from mri_fm.objectives.mae import patch_statistics

SIZE = (8, 16, 16)
MODEL = ModelConfig(width=24, depth=2, heads=3, patch=[4, 4, 8], decoder=HeadConfig(width=24, depth=1, heads=3))
POSITIONS = torch.tensor([7, 3, 12])


def volumes(batch: int = 3) -> Tensor:
    return torch.randn(batch, 1, *SIZE, generator=torch.Generator().manual_seed(2))


def build(cls: type[MAE] = MAE, **options) -> MAE:
    return cls(cls.Config(**options), MODEL, SIZE, seed=4)


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_loss_is_the_mean_error_of_hidden_voxels_in_float64(power):
    mae, x = build(power=power).double(), volumes().double()
    loss, metrics = mae(Inputs(x, POSITIONS, 0), {})
    pred_BMP, hidden_BM = mae.predict(Inputs(x, POSITIONS, 0))
    truth_BNP, errors = patchify(x, mae.student.patch), []
    for b in range(3):
        errors += [(pred_BMP[b, m] - truth_BNP[b, n]).abs() ** power / power for m, n in enumerate(hidden_BM[b].tolist())]
    torch.testing.assert_close(loss, torch.stack(errors).mean(), rtol=1e-12, atol=0)
    assert metrics["loss_reconstruction"].equal(loss.detach())
    assert not metrics["loss_reconstruction"].requires_grad


def test_patch_norm_compares_with_patches_that_lack_their_mean_and_deviation():
    mae, x = build(patch_norm=True).double(), volumes().double() * 3 + 5
    loss, _ = mae(Inputs(x, POSITIONS, 0), {})
    pred_BMP, hidden_BM = mae.predict(Inputs(x, POSITIONS, 0))
    truth_BNP, errors = patchify(x, mae.student.patch), []
    for b in range(3):
        for m, n in enumerate(hidden_BM[b].tolist()):
            truth_P = truth_BNP[b, n]
            errors.append((pred_BMP[b, m] - (truth_P - truth_P.mean()) / (truth_P.var(correction=0) + 1e-6).sqrt()) ** 2 / 2)
    torch.testing.assert_close(loss, torch.stack(errors).mean(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("patch_norm", [False, True])
def test_a_perfect_prediction_makes_the_mosaic_the_truth(patch_norm):
    mae, x = build(patch_norm=patch_norm).double(), volumes().double()
    _, hidden_BM = mae.predict(Inputs(x, POSITIONS, 0))
    perfect_BMP = torch.stack(
        [patches[index] for patches, index in zip(patchify(x, mae.student.patch), hidden_BM, strict=True)]
    )
    if patch_norm:
        mean_BM1, std_BM1 = patch_statistics(perfect_BMP)
        perfect_BMP = (perfect_BMP - mean_BM1) / std_BM1
    assert float(mae.reconstruction_loss(perfect_BMP, x, hidden_BM)) == 0
    torch.testing.assert_close(mae.mosaic(perfect_BMP, x, hidden_BM), x)


def test_a_constant_volume_is_finite_with_patch_norm():
    loss, _ = build(patch_norm=True)(Inputs(torch.zeros(3, 1, *SIZE), POSITIONS, 0), {})
    assert torch.isfinite(loss)


def test_three_quarters_are_hidden_and_each_sample_has_its_own_mask():
    _, hidden_BM = build().predict(Inputs(volumes(), POSITIONS, 0))
    assert hidden_BM.shape == (3, 12)
    assert not hidden_BM[0].equal(hidden_BM[1])


def test_predictions_do_not_see_the_hidden_voxels():
    mae, x = build(), volumes()
    pred_BMP, hidden_BM = mae.predict(Inputs(x, POSITIONS, 0))
    noise = mae.mosaic(torch.randn_like(pred_BMP), x, hidden_BM)
    assert mae.predict(Inputs(noise, POSITIONS, 0))[0].equal(pred_BMP)


def test_visible_voxels_do_not_count_in_the_loss():
    mae, x = build(), volumes()
    pred_BMP, hidden_BM = mae.predict(Inputs(x, POSITIONS, 0))
    other = mae.mosaic(patchify(x, mae.student.patch).gather(1, hidden_BM[:, :, None].expand(-1, -1, 128)), -x, hidden_BM)
    assert mae.reconstruction_loss(pred_BMP, other, hidden_BM).equal(mae.reconstruction_loss(pred_BMP, x, hidden_BM))


@pytest.mark.parametrize("cls", [MAE, MAESpectral])
def test_loss_of_a_batch_is_the_mean_over_its_samples_wherever_it_is_split(cls):
    objective, x, schedule = build(cls).double(), volumes().double(), {"spectral_weight": 0.5}
    together, _ = objective(Inputs(x, POSITIONS, 0), schedule)
    alone = [objective(Inputs(x[i : i + 1], POSITIONS[i : i + 1], 99), schedule)[0] for i in range(3)]
    torch.testing.assert_close(together, torch.stack(alone).mean(), rtol=1e-12, atol=0)


def test_mosaic_is_truth_where_visible_and_prediction_where_hidden():
    mae, x = build(), volumes()
    pred_BMP, hidden_BM = mae.predict(Inputs(x, POSITIONS, 0))
    mosaic, hidden = mae.reconstruct(Inputs(x, POSITIONS, 0))
    assert mosaic.shape == x.shape == hidden.shape
    assert hidden.dtype == torch.bool
    assert hidden.float().mean() == 0.75
    assert mosaic[~hidden].equal(x[~hidden])
    patches_BNP = patchify(mosaic, mae.student.patch)
    for b in range(3):
        assert patches_BNP[b, hidden_BM[b]].equal(pred_BMP[b].detach())
    assert not mosaic.requires_grad


def test_spectral_objective_is_mae_plus_the_weighted_spectral_loss_of_the_mosaic():
    objective, x = build(MAESpectral, cutoff=0.4).double(), volumes().double()
    loss, metrics = objective(Inputs(x, POSITIONS, 0), {"spectral_weight": 0.25})
    reconstruction, _ = build().double()(Inputs(x, POSITIONS, 0), {})
    spectral = spectral_loss_reference(objective.reconstruct(Inputs(x, POSITIONS, 0))[0], x, cutoff=0.4)
    torch.testing.assert_close(metrics["loss_reconstruction"], reconstruction.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(metrics["loss_spectral"], spectral, rtol=1e-10, atol=0)
    torch.testing.assert_close(loss, reconstruction + 0.25 * spectral, rtol=1e-10, atol=0)
    assert not any(m.requires_grad for m in metrics.values())


def test_the_spectral_term_has_a_gradient_on_every_step():
    objective, x = build(MAESpectral), volumes()
    gradients = []
    for weight in (0.0, 0.01):
        loss, _ = objective(Inputs(x, POSITIONS, 0), {"spectral_weight": weight})
        gradients.append(torch.autograd.grad(loss, objective.decoder.output.weight)[0])
    assert (gradients[0] - gradients[1]).abs().max() > 1e-6
    assert (objective.schedules(12)["spectral_weight"] > 0).all()


def test_spectral_weight_ramps_over_the_papers_epochs():
    weights = build(MAESpectral).schedules(700)["spectral_weight"]
    assert weights.shape == (700,)
    assert weights.dtype == "float64"
    assert (weights[:5] == 0).all()
    assert weights[14] == pytest.approx(0.005)
    assert weights[24:] == pytest.approx(0.01)
    assert (weights[5:25] > weights[4:24]).all()


def test_without_a_ramp_the_weight_is_full_from_the_start():
    weights = build(MAESpectral, ramp_start=0.0, ramp_end=0.0, spectral_weight=0.3).schedules(5)["spectral_weight"]
    assert weights.tolist() == [0.3] * 5


@pytest.mark.parametrize("cls", [MAE, MAESpectral])
@pytest.mark.parametrize("autocast", [True, False])
def test_losses_are_float32_under_bf16(cls, autocast):
    objective, x, schedule = build(cls), volumes(), {"spectral_weight": 0.01}
    exact, _ = objective(Inputs(x, POSITIONS, 0), schedule)
    if not autocast:
        objective = objective.to(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        loss, metrics = objective(Inputs(x, POSITIONS, 0), schedule)
    loss.backward()
    assert all(value.dtype == torch.float32 for value in (loss, *metrics.values()))
    assert loss.item() == pytest.approx(exact.item(), rel=1e-2)
    assert torch.isfinite(objective.student.embedding.weight.grad).all()


def test_the_truth_in_the_mosaic_is_not_rounded_under_bf16_weights():
    objective, x = build(MAESpectral).to(torch.bfloat16), volumes()
    mosaic, hidden = objective.reconstruct(Inputs(x, POSITIONS, 0))
    assert mosaic[~hidden].equal(x[~hidden])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_input_dtypes_are_taken(dtype):
    mae, x = build(), volumes()
    exact, _ = mae(Inputs(x, POSITIONS, 0), {})
    assert mae(Inputs(x.to(dtype), POSITIONS, 0), {})[0].item() == pytest.approx(exact.item(), rel=1e-2)


@pytest.mark.parametrize("cls", [MAE, MAESpectral])
def test_a_few_steps_lower_the_loss(cls):
    objective, x = build(cls), volumes()
    optimizer = torch.optim.AdamW(objective.parameters(), lr=3e-3)
    losses = []
    for _ in range(15):
        loss, _ = objective(Inputs(x, POSITIONS, 0), {"spectral_weight": 0.01})
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.95 * losses[0]


@pytest.mark.parametrize("cls", [MAE, MAESpectral])
def test_every_trainable_parameter_gets_a_gradient(cls):
    objective = build(cls)
    objective(Inputs(volumes(), POSITIONS, 0), {"spectral_weight": 0.01})[0].backward()
    for name, parameter in objective.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_the_encoder_is_the_student_and_there_is_no_teacher():
    mae = build()
    assert mae.encoder() is mae.student
    assert mae.ema_pairs() == []
    assert mae.schedules(10) == {}
