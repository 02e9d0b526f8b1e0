import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mri_fm.losses.spectral import MODES, Spectrum, fused_spectral_loss, spectral_loss, spectral_loss_reference, zscore

BANDS = {
    "paper": {},
    "all": {"high_pass": False},
    "soft": {"cutoff": 0.4, "softness": 0.3},
    "band": {"cutoff": 0.2, "cutoff_high": 0.7},
    "soft band by Nyquist": {"cutoff": 0.3, "cutoff_high": 1.0, "softness": 0.2, "units": "nyquist"},
    "low": {"high_pass": False, "cutoff_high": 0.6},
    "mm": {"cutoff": 0.1, "units": "cycles_per_mm", "spacing": (3.0, 1.0, 1.5)},
    "anisotropic corner": {"spacing": (1.0, 2.0, 1.0)},
    "mm of each": {"cutoff": 0.2, "units": "cycles_per_mm", "spacing": torch.tensor([[3, 1, 1.5], [1, 2, 0.7]])},
}
SIZES = [(4, 6, 8), (5, 7, 9), (4, 5, 7), (1, 8, 6), (3, 4, 1)]


def pair(
    size: tuple[int, int, int] = (4, 6, 8), dtype: torch.dtype = torch.float64, channels: int = 2
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    pred, target = (torch.randn(3, channels, *size, generator=generator, dtype=dtype) * 2 + 1 for _ in range(2))
    return pred, target


def written_out(pred: np.ndarray, target: np.ndarray, cutoff: float) -> float:
    """The log-magnitude loss in NumPy, bin by bin."""
    total = 0.0
    z, y, x = np.meshgrid(*(np.fft.fftfreq(n) for n in pred.shape[2:]), indexing="ij")
    radius = np.sqrt(z**2 + y**2 + x**2)
    h = radius / radius.max() >= cutoff
    for r, g in zip(pred.reshape(-1, *pred.shape[2:]), target.reshape(-1, *pred.shape[2:]), strict=True):
        r, g = ((v - v.mean()) / (v.std(ddof=1) + 1e-6) for v in (r, g))
        R, G = np.abs(np.fft.fftn(r)), np.abs(np.fft.fftn(g))
        total += ((np.log1p(h * R + 1e-6) - np.log1p(h * G + 1e-6)) ** 2).sum()
    return total / pred.size


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("cutoff", [0.0, 0.3, 0.7])
def test_both_forms_equal_the_definition_in_float64(size, cutoff):
    pred, target = pair(size)
    expected = written_out(pred.numpy(), target.numpy(), cutoff)
    assert spectral_loss_reference(pred, target, cutoff=cutoff).item() == pytest.approx(expected, rel=1e-10)
    assert spectral_loss(pred, target, cutoff=cutoff).item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("high_pass", [True, False])
def test_half_spectrum_equals_the_reference_in_value_and_gradient(size, mode, high_pass):
    pred, target = pair(size)
    pred.requires_grad_()
    losses = [f(pred, target, mode=mode, high_pass=high_pass) for f in (spectral_loss, spectral_loss_reference)]
    gradients = [torch.autograd.grad(loss, pred)[0] for loss in losses]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_float32_is_close_to_float64(mode):
    pred, target = pair((8, 12, 16), torch.float32)
    single, double = spectral_loss(pred, target, mode=mode), spectral_loss_reference(pred.double(), target.double(), mode=mode)
    assert single.dtype == torch.float32
    assert single.item() == pytest.approx(double.item(), rel=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(*[st.integers(3, 21)] * 3),
    mode=st.sampled_from(MODES),
    band=st.sampled_from(sorted(BANDS)),
    masked=st.booleans(),
    seed=st.integers(0, 99),
)
def test_float32_value_and_gradient_against_the_float64_reference(size, mode, band, masked, seed):
    generator = torch.Generator().manual_seed(seed)
    target = torch.randn(2, 1, *size, generator=generator)
    blurred = (target + target.roll(1, 2) + target.roll(1, 3) + target.roll(1, 4)) / 2
    pred = (blurred + torch.randn(target.shape, generator=generator) * 0.2 + 0.2).requires_grad_()
    hidden = torch.rand(target.shape, generator=generator) < 0.75 if masked else None
    exact = pred.detach().double().requires_grad_()
    # So few shells that none is a single bin of such a small volume: the logarithm of one bin near 0 is ill-conditioned.
    options = {"mode": mode, "hidden": hidden, "shells": 5, **BANDS[band]}
    value = spectral_loss(pred, target, **options)
    expected = spectral_loss_reference(exact, target.double(), **options)
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    (gradient,), (reference,) = torch.autograd.grad(value, pred), torch.autograd.grad(expected, exact)
    assert (gradient.double() - reference).norm() <= 1e-4 * reference.norm()


@pytest.mark.parametrize("band", ["paper", "soft band by Nyquist"])
@pytest.mark.parametrize("mode", MODES)
def test_gradcheck(mode, band):
    pred, target = pair((3, 4, 5), channels=1)
    pred, target = pred[:2].requires_grad_(), target[:2]
    hidden = torch.rand(2, 1, 3, 4, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for weights in (None, hidden):
        assert torch.autograd.gradcheck(
            lambda p, w=weights: spectral_loss(p, target, mode=mode, hidden=w, **BANDS[band]), (pred,)
        )


def test_the_target_gets_no_gradient():
    pred, target = pair()
    loss = spectral_loss(pred.requires_grad_(), target.requires_grad_())
    assert torch.autograd.grad(loss, target, allow_unused=True)[0] is None


@pytest.mark.parametrize("mode", MODES)
def test_a_perfect_reconstruction_scores_nothing_under_bf16_autocast(mode):
    _, target = pair((8, 8, 8), torch.float32)
    pred = target.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = spectral_loss(pred, target, mode=mode)
    assert loss.dtype == torch.float32
    assert loss.item() <= 1e-6
    assert torch.autograd.grad(loss, pred)[0].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_inputs_are_computed_in_float32(dtype):
    pred, target = (x.to(dtype) for x in pair((8, 8, 8)))
    exact = pred.double().requires_grad_()
    expected = spectral_loss_reference(exact, target.double())
    (reference,) = torch.autograd.grad(expected, exact)
    loss = spectral_loss(pred.requires_grad_(), target)
    (gradient,) = torch.autograd.grad(loss, pred)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert gradient.dtype == dtype
    assert (gradient.double() - reference).norm() <= 2 * torch.finfo(dtype).eps * reference.norm()


def test_a_loss_scale_saves_gradients_that_half_precision_would_lose():
    pred, target = (x[:1, :1].half() for x in pair((64, 64, 64)))
    loss, gradient = fused_spectral_loss(pred.requires_grad_(), target, Spectrum())
    assert gradient.abs().median() < torch.finfo(torch.float16).tiny
    (scaled,) = torch.autograd.grad(loss * 2.0**16, pred)
    torch.testing.assert_close(scaled.float(), gradient * 2.0**16, rtol=1e-3, atol=1e-6)


def test_brightness_and_contrast_do_not_matter():
    pred, target = pair()
    torch.testing.assert_close(spectral_loss(5 * pred - 3, target), spectral_loss(pred, target), rtol=1e-5, atol=1e-9)


def test_magnitudes_are_blind_to_a_circular_shift_and_phase_aware_modes_are_not():
    _, target = pair((8, 8, 8), channels=1)
    shifted = target.roll((1, 2, 3), dims=(2, 3, 4))
    for mode in ("log_magnitude", "magnitude", "radial_log_power"):
        assert spectral_loss(shifted, target, mode=mode).item() < 1e-20
    assert spectral_loss(shifted, target, mode="complex").item() > 0.1
    assert spectral_loss(shifted, target, mode="phase_aware").item() > 1


def test_phase_aware_is_log_magnitude_where_the_phases_agree():
    _, target = pair((8, 8, 8), channels=1)
    smooth = torch.fft.irfftn(torch.fft.rfftn(target, dim=(2, 3, 4)) * 0.9 ** torch.arange(5), s=(8, 8, 8), dim=(2, 3, 4))
    plain, aware = (spectral_loss(smooth, target, mode=mode) for mode in ("log_magnitude", "phase_aware"))
    assert plain <= aware < 1.01 * plain


def test_the_phase_gradient_leads_back_from_a_shift():
    _, target = pair((8, 8, 8), channels=1)
    start = target.roll(1, dims=4)
    distance = {}
    for mode in ("log_magnitude", "phase_aware"):
        pred = start.clone().requires_grad_()
        optimizer = torch.optim.Adam([pred], lr=0.05)
        for _ in range(150):
            optimizer.zero_grad()
            spectral_loss(pred, target, mode=mode, high_pass=False).backward()
            optimizer.step()
        distance[mode] = ((zscore(pred) - zscore(target)).norm() / (zscore(start) - zscore(target)).norm()).item()
    assert distance["phase_aware"] < 0.6
    assert distance["log_magnitude"] > 0.9


def test_radial_log_power_prefers_the_right_texture_to_a_smooth_guess_and_the_per_bin_form_does_not():
    generator = torch.Generator().manual_seed(3)
    target, other = (torch.randn(1, 1, 16, 16, 16, generator=generator, dtype=torch.float64) for _ in range(2))
    wave = torch.cos(2 * torch.pi * torch.arange(16, dtype=torch.float64) / 16)
    anatomy = 5 * (wave[:, None, None] + wave[:, None] + wave)
    texture, smooth = anatomy + other, anatomy + 0.6 * other
    per_bin, radial = (
        [spectral_loss(p, anatomy + target, mode=m) for p in (texture, smooth)] for m in ("magnitude", MODES[-1])
    )
    assert per_bin[0] > per_bin[1]
    assert radial[0] < 0.2 * radial[1]


def test_hidden_confines_the_loss_to_the_predicted_voxels():
    pred, target = pair((8, 8, 8), channels=1)
    hidden = torch.zeros(3, 1, 8, 8, 8, dtype=torch.bool)
    hidden[:, :, :4] = True
    # A correct standardised prediction in the hidden half, whatever the rest: z-scores of both are equal there.
    pred[:, :, :4] = target[:, :, :4]
    pred[:, :, 4:] = target[:, :, 4:].flip(4)
    for mode in MODES:
        assert spectral_loss(pred, target, mode=mode, hidden=hidden) < 1e-12
        assert spectral_loss(pred, target, mode=mode) > 1e-6 or mode == "radial_log_power"


@pytest.mark.parametrize("size", SIZES)
def test_complex_without_high_pass_is_the_voxel_error_by_parseval(size):
    pred, target = pair(size)
    mse = (zscore(pred) - zscore(target)).square().mean()
    torch.testing.assert_close(spectral_loss(pred, target, mode="complex", high_pass=False), mse, rtol=1e-10, atol=0)


def test_complex_with_high_pass_is_less_than_the_voxel_error():
    pred, target = pair((8, 8, 8))
    assert spectral_loss(pred, target, mode="complex") < 0.99 * (zscore(pred) - zscore(target)).square().mean()


def test_low_frequencies_do_not_count():
    _, target = pair((16, 16, 16), channels=1)
    wave = torch.cos(2 * torch.pi * torch.arange(16, dtype=torch.float64) / 16)
    # A tone of frequency 1/16 lies below 0.3 of the corner; only the changed overall std is left to see.
    low = spectral_loss(target + 0.2 * wave, target, mode="complex")
    high = spectral_loss(target + 0.2 * wave * (-1) ** torch.arange(16), target, mode="complex")
    assert low < 0.02 * high


def test_a_constant_volume_is_finite():
    pred = torch.ones(1, 1, 4, 4, 4, requires_grad=True)
    loss = spectral_loss(pred, torch.zeros(1, 1, 4, 4, 4))
    loss.backward()
    assert loss.isfinite()
    assert pred.grad is not None
    assert pred.grad.isfinite().all()


def test_a_loss_first_taken_in_inference_mode_can_be_trained_afterwards():
    pred, target = pair((6, 2, 10), torch.float32)
    with torch.inference_mode():
        spectral_loss(pred, target, cutoff=0.123)
    spectral_loss(pred.requires_grad_(), target, cutoff=0.123).backward()


def test_mean_over_samples():
    pred, target = pair()
    singles = [spectral_loss(pred[i : i + 1], target[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(spectral_loss(pred, target), torch.stack(singles).mean())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_one_voxel_that_is_not_finite_makes_the_loss_not_finite(mode, bad):
    for which in (0, 1):
        volumes = [x.clone() for x in pair((6, 7, 8), torch.float32)]
        volumes[which][1, 0, 2, 3, 4] = bad
        loss, gradient = fused_spectral_loss(volumes[0].requires_grad_(), volumes[1], Spectrum(mode))
        assert not loss.isfinite()
        assert not gradient[1, 0].isfinite().all()
        assert gradient[0].isfinite().all()


def test_gradients_accumulate_over_micro_batches_and_over_two_uses():
    pred, target = pair((6, 7, 8))
    pred.requires_grad_()
    (whole,) = torch.autograd.grad(spectral_loss(pred, target), pred)
    for i in range(3):
        (spectral_loss(pred[i : i + 1], target[i : i + 1]) / 3).backward()
    torch.testing.assert_close(pred.grad, whole, rtol=1e-10, atol=1e-15)
    loss = spectral_loss(pred, target)
    (3 * loss + loss).backward(retain_graph=True)
    loss.backward()
    torch.testing.assert_close(pred.grad, 6 * whole, rtol=1e-10, atol=1e-15)


def test_a_strided_prediction_is_taken():
    pred, target = pair((6, 7, 8))
    strided = pred.transpose(2, 4).contiguous().transpose(2, 4).requires_grad_()
    (gradient,) = torch.autograd.grad(spectral_loss(strided, target), strided)
    (expected,) = torch.autograd.grad(spectral_loss(pred.requires_grad_(), target), pred)
    torch.testing.assert_close(gradient, expected)


def test_the_backward_pass_saves_one_buffer_of_the_predictions_size():
    pred, target = pair((6, 7, 8), torch.float32)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        spectral_loss(pred.requires_grad_(), target)
    assert [t.shape for t in saved] == [pred.shape]


def test_the_gradient_given_away_is_the_gradient_and_is_empty_without_need():
    pred, target = pair((6, 7, 8))
    loss, gradient = fused_spectral_loss(pred.requires_grad_(), target, Spectrum())
    assert not gradient.requires_grad
    torch.testing.assert_close(torch.autograd.grad(loss, pred)[0], gradient)
    with torch.no_grad():
        value, nothing = fused_spectral_loss(pred, target, Spectrum())
    assert value.equal(loss.detach())
    assert nothing.numel() == 0


def test_second_order_gradients_are_refused():
    pred, target = pair((4, 4, 4))
    loss = spectral_loss(pred.requires_grad_(), target)
    with pytest.raises(RuntimeError, match="differentiable once"):
        torch.autograd.grad(loss, pred, create_graph=True)


def test_compiled_surroundings_give_the_same_loss_and_gradient():
    pred, target = pair((6, 7, 8))

    def step(x: Tensor) -> Tensor:
        return 2 * spectral_loss(x.sin(), target) + x.square().mean()

    (eager,) = torch.autograd.grad(step(pred.requires_grad_()), pred)
    compiled = torch.compile(step, backend="aot_eager")
    for _ in range(2):
        (gradient,) = torch.autograd.grad(compiled(pred), pred)
        torch.testing.assert_close(gradient, eager)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(32, 40, 36), (15, 21, 17)])
def test_on_a_gpu_against_the_float64_reference(mode, size):
    pred, target = pair(size, torch.float32)
    exact = pred.double().requires_grad_()
    expected = spectral_loss_reference(exact, target.double(), mode=mode)
    loss, gradient = fused_spectral_loss(pred.cuda().requires_grad_(), target.cuda(), Spectrum(mode))
    (reference,) = torch.autograd.grad(expected, exact)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert (gradient.cpu().double() - reference).norm() <= 1e-4 * reference.norm()


def test_misuse_is_refused():
    pred, target = pair()
    for f in (spectral_loss, spectral_loss_reference):
        with pytest.raises(ValueError, match="log_magnitude, magnitude, complex, phase_aware"):
            f(pred, target, mode="phase")
        with pytest.raises(ValueError, match="must be equal"):
            f(pred, target[:1])
        with pytest.raises(ValueError, match="must be equal"):
            f(pred[0], target[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"units": "hertz"}, "corner, nyquist, cycles_per_mm"),
        ({"cutoff": -0.1}, "must not be negative"),
        ({"cutoff": float("nan")}, "must not be negative"),
        ({"softness": -1.0}, "must not be negative"),
        ({"shells": 0}, "there must be a shell"),
        ({"cutoff": 0.5, "cutoff_high": 0.4}, "must be above the lower one"),
        ({"units": "cycles_per_mm"}, "need the spacing"),
        ({"spacing": (1.0, 0.0, 1.0)}, "three positive numbers"),
        ({"cutoff": 1.01}, "no frequency of a volume"),
    ],
)
def test_a_senseless_filter_is_refused(options, message):
    pred, target = pair()
    for f in (spectral_loss, spectral_loss_reference):
        with pytest.raises(ValueError, match=message):
            f(pred, target, **options)
