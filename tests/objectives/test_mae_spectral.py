import pytest
import torch
from torch import Tensor

from mri_fm.config import load_config
from mri_fm.errors import UserError
from mri_fm.inputs import Inputs
from mri_fm.losses.spectral import MODES, spectral_loss_reference
from mri_fm.model_config import HeadConfig, ModelConfig
from mri_fm.objectives import MAESpectral

SIZE = (8, 16, 16)
MODEL = ModelConfig(width=24, depth=1, heads=3, patch=[4, 4, 8], decoder=HeadConfig(width=24, depth=1, heads=3))
POSITIONS = torch.tensor([7, 3])
WEIGHT = {"spectral_weight": 0.5}


def volumes() -> Tensor:
    return torch.randn(2, 1, *SIZE, generator=torch.Generator().manual_seed(2))


def build(**options) -> MAESpectral:
    return MAESpectral(MAESpectral.Config(**options), MODEL, SIZE, seed=4)


@pytest.mark.parametrize("patch_norm", [False, True])
@pytest.mark.parametrize("power", [1.0, 2.0])
def test_gradient_ratio_is_that_of_the_two_losses_gradients_in_the_predicted_patches(power, patch_norm):
    objective, x = build(power=power, patch_norm=patch_norm).double(), volumes().double()
    _, metrics = objective(Inputs(x, POSITIONS, 0), WEIGHT)
    pred_BMP, hidden_BM = objective.predict(Inputs(x, POSITIONS, 0))
    leaf = pred_BMP.detach().requires_grad_()
    losses = spectral_loss_reference(objective.mosaic(leaf, x, hidden_BM), x), objective.reconstruction_loss(leaf, x, hidden_BM)
    spectral, reconstruction = (torch.autograd.grad(loss, leaf)[0].norm() for loss in losses)
    torch.testing.assert_close(metrics["spectral_gradient_ratio"], spectral / reconstruction, rtol=1e-8, atol=0)


def test_without_gradients_there_is_no_ratio_but_the_same_loss():
    objective, x = build(), volumes()
    loss, metrics = objective(Inputs(x, POSITIONS, 0), WEIGHT)
    assert not metrics["spectral_gradient_ratio"].requires_grad
    with torch.no_grad():
        again, metrics = objective(Inputs(x, POSITIONS, 0), WEIGHT)
    torch.testing.assert_close(again, loss.detach())
    assert "spectral_gradient_ratio" not in metrics


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_trains(mode):
    objective, x = build(mode=mode), volumes()
    optimizer = torch.optim.AdamW(objective.parameters(), lr=3e-3)
    values = []
    for _ in range(12):
        loss, metrics = objective(Inputs(x, POSITIONS, 0), WEIGHT)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(metrics["loss_spectral"].item())
    assert values[-1] < values[0]


def test_radial_log_power_looks_at_the_hidden_patches_alone():
    objective, x = build(mode="radial_log_power").double(), volumes().double()
    mosaic, hidden = objective.reconstruct(Inputs(x, POSITIONS, 0))
    _, metrics = objective(Inputs(x, POSITIONS, 0), WEIGHT)
    expected = spectral_loss_reference(mosaic, x, mode="radial_log_power", hidden=hidden)
    torch.testing.assert_close(metrics["loss_spectral"], expected, rtol=1e-8, atol=0)


def test_the_options_of_the_spectrum_reach_the_loss():
    options = {"cutoff": 0.1, "cutoff_high": 0.4, "softness": 0.05, "units": "cycles_per_mm"}
    objective, x = build(**options).double(), volumes().double()
    inputs = Inputs(x, POSITIONS, 0, spacing_B3=torch.tensor([[2.0, 1.0, 1.5], [1.0, 0.8, 3.0]]))
    mosaic, _ = objective.reconstruct(inputs)
    parts = [
        spectral_loss_reference(mosaic[i : i + 1], x[i : i + 1], spacing=inputs.spacing_B3[i].tolist(), **options)
        for i in range(2)
    ]
    torch.testing.assert_close(objective(inputs, WEIGHT)[1]["loss_spectral"], sum(parts) / 2, rtol=1e-8, atol=0)


def test_voxel_units_do_not_look_at_the_spacing():
    objective, x = build(), volumes()
    losses = [objective(Inputs(x, POSITIONS, 0, spacing_B3=s), WEIGHT)[0] for s in (None, torch.full((2, 3), 2.0))]
    assert losses[0].equal(losses[1])


@pytest.mark.parametrize("mode", MODES)
def test_a_volume_too_coarse_for_the_band_adds_nothing(mode):
    objective, x = build(mode=mode, units="cycles_per_mm", cutoff=0.4), volumes()
    fine, both = torch.tensor([[1.0, 1.0, 1.0]]), torch.tensor([[1.0, 1.0, 1.0], [9.0, 9.0, 9.0]])
    loss, metrics = objective(Inputs(x, POSITIONS, 0, spacing_B3=both), WEIGHT)
    loss.backward()
    alone = objective(Inputs(x[:1], POSITIONS[:1], 0, spacing_B3=fine), WEIGHT)[1]["loss_spectral"]
    torch.testing.assert_close(metrics["loss_spectral"], alone / 2)
    assert all(p.grad.isfinite().all() for p in objective.parameters())


def test_cycles_per_mm_need_the_spacing():
    with pytest.raises(ValueError, match="need the spacing"):
        build(units="cycles_per_mm")(Inputs(volumes(), POSITIONS, 0), WEIGHT)


def test_options_are_taken_from_the_command_line():
    words = [
        "objective.mode=phase_aware",
        "objective.cutoff_high=0.9",
        "objective.units=cycles_per_mm",
        "data.corpus=c",
        "run.dir=r",
    ]
    spectrum = load_config("mae_spectral", words).objective.spectrum()
    assert (spectrum.mode, spectrum.cutoff_high, spectrum.units) == ("phase_aware", 0.9, "cycles_per_mm")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "phase"}, "log_magnitude, magnitude"),
        ({"cutoff": 1.5}, "no frequency"),
        ({"ramp_start": 0.5, "ramp_end": 0.1}, "fractions of the run"),
        ({"ramp_start": 5, "ramp_end": 25}, "ramp_start=5 and ramp_end=25 are fractions of the run, no epochs"),
    ],
)
def test_senseless_options_are_refused_in_one_line_before_the_first_step(options, message):
    with pytest.raises(UserError, match=message) as caught:
        build(**options)
    assert "objective." in str(caught.value)
    assert "\n" not in str(caught.value)
