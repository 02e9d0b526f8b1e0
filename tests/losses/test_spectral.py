import numpy as np
import pytest
import torch
from torch import Tensor

from mri_fm.losses.spectral import MODES, spectral_loss, spectral_loss_reference, zscore

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


@pytest.mark.parametrize("mode", MODES)
def test_gradcheck(mode):
    pred, target = pair((3, 4, 5), channels=1)
    pred, target = pred[:2].requires_grad_(), target[:2]
    assert torch.autograd.gradcheck(lambda p: spectral_loss(p, target, mode=mode), (pred,))


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
    loss = spectral_loss(pred, target)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(spectral_loss_reference(pred.double(), target.double()).item(), rel=1e-5)


def test_brightness_and_contrast_do_not_matter():
    pred, target = pair()
    torch.testing.assert_close(spectral_loss(5 * pred - 3, target), spectral_loss(pred, target), rtol=1e-5, atol=1e-9)


def test_log_magnitude_is_blind_to_a_circular_shift_and_complex_is_not():
    _, target = pair((8, 8, 8), channels=1)
    shifted = target.roll((1, 2, 3), dims=(2, 3, 4))
    assert spectral_loss(shifted, target).item() < 1e-20
    assert spectral_loss(shifted, target, mode="magnitude").item() < 1e-20
    assert spectral_loss(shifted, target, mode="complex").item() > 0.1


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


def test_misuse_is_refused():
    pred, target = pair()
    for f in (spectral_loss, spectral_loss_reference):
        with pytest.raises(ValueError, match="log_magnitude, magnitude, complex"):
            f(pred, target, mode="phase")
        with pytest.raises(ValueError, match="must be equal"):
            f(pred, target[:1])
        with pytest.raises(ValueError, match="must be equal"):
            f(pred[0], target[0])
