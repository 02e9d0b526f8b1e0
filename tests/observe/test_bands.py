import numpy as np
import pytest
import torch

from mri_fm.observe.bands import BANDS, band_errors

SIZE = (8, 12, 10)


def draw(seed: int = 0) -> torch.Tensor:
    return torch.randn(2, 1, *SIZE, generator=torch.Generator().manual_seed(seed))


def band_of_bins() -> np.ndarray:
    axes = np.meshgrid(*[np.fft.fftfreq(n) for n in SIZE], indexing="ij")
    radius = np.sqrt(sum(axis**2 for axis in axes))
    return np.minimum((radius / radius.max() * BANDS).astype(int), BANDS - 1)


def reference(mosaic: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """By the full spectrum, in float64."""
    spectra = [np.fft.fftn(v[:, 0].astype(np.float64), axes=(1, 2, 3)) for v in (mosaic - truth, mosaic, truth)]
    band = band_of_bins()
    error, power, total = (np.array([(np.abs(s) ** 2)[:, band == r].sum(axis=1) for r in range(BANDS)]).T for s in spectra)
    return error / total, power / total


def test_error_and_power_equal_the_float64_reference():
    mosaic, truth = draw(0), draw(1)
    for found, expected in zip(band_errors(mosaic, truth), reference(mosaic.numpy(), truth.numpy()), strict=True):
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4)


def test_a_perfect_reconstruction_has_no_error_and_a_guess_of_0_has_1():
    error, power = band_errors(draw(), draw())
    assert float(error.max()) == 0
    assert power.flatten().tolist() == pytest.approx([1] * 2 * BANDS)
    error, power = band_errors(torch.zeros(2, 1, *SIZE), draw())
    assert error.flatten().tolist() == pytest.approx([1] * 2 * BANDS)
    assert float(power.max()) == 0


def test_a_blurred_reconstruction_lacks_the_high_bands_alone():
    truth = draw()
    spectrum = torch.fft.fftn(truth, dim=(2, 3, 4)) * torch.from_numpy(band_of_bins() < BANDS // 2)
    error, power = band_errors(torch.fft.ifftn(spectrum, dim=(2, 3, 4)).real, truth)
    assert float(error[:, : BANDS // 2].max()) < 1e-6
    assert float(power[:, BANDS // 2 :].max()) < 1e-6
    assert float(error[:, BANDS // 2 :].min()) > 0.999
