import numpy as np
import pytest
import torch

from mri_fm.losses.spectrum import Spectrum, as_spacing


def test_the_two_edges_of_a_band_and_its_units():
    size = (16, 12, 10)
    z, y, x = np.meshgrid(np.fft.fftfreq(16, 2.0), np.fft.fftfreq(12), np.fft.fftfreq(10, 0.5), indexing="ij")
    mm = np.sqrt(z**2 + y**2 + x**2)
    spacing = torch.tensor([2.0, 1.0, 0.5])
    for units, unit in {"corner": mm.max(), "nyquist": 0.25, "cycles_per_mm": 1.0}.items():
        band = Spectrum(cutoff=0.3, cutoff_high=0.9, units=units)
        radius, whole, half = (
            f(size, half=half, spacing_3=spacing).numpy()
            for f, half in ((band.radius, False), (band.response, False), (band.response, True))
        )
        np.testing.assert_allclose(radius, mm / unit, rtol=1e-12)
        assert (whole == ((mm / unit >= 0.3) & (mm / unit <= 0.9))).all()
        assert (half == whole[:, :, :6]).all()


def test_a_bin_on_the_edge_is_decided_in_float64():
    # |f| / max|f| of the bins at half the corner is exactly 0.5; float32 would put some of them below.
    assert Spectrum(cutoff=0.5).response((12, 12, 12), half=False)[3, 3, 3] == 1.0
    assert Spectrum(cutoff=0.5 + 1e-9).response((12, 12, 12), half=False)[3, 3, 3] == 0.0


def test_soft_edges_rise_monotonically_around_the_cutoff():
    spectrum = Spectrum(cutoff=0.4, softness=0.2)
    radius, h = (f((24, 24, 24), half=True).numpy().ravel() for f in (spectrum.radius, spectrum.response))
    order = np.argsort(radius)
    assert (np.diff(h[order]) >= 0).all()
    assert (h[radius <= 0.3] == 0).all()
    assert (h[radius >= 0.5] == 1).all()
    assert ((h > 0.3) & (h < 0.7)).any()


def test_an_empty_band_is_named_for_a_size_and_a_spacing():
    band = Spectrum(cutoff=0.4, units="cycles_per_mm")
    band.require_band((8, 8, 8), torch.ones(3))
    with pytest.raises(ValueError, match=r"lies in the spectral band; the largest is 0\.173"):
        band.require_band((8, 8, 8), torch.full((3,), 5.0))


def test_the_spacing_of_a_batch():
    like = torch.zeros(2, 1, 4, 4, 4)
    assert as_spacing(None, like) is None
    assert as_spacing((1.0, 2.0, 3.0), like).tolist() == [[1.0, 2.0, 3.0]] * 2
    rows = torch.ones(2, 3)
    assert as_spacing(rows, like) is rows
    with pytest.raises(ValueError, match="give a row of z, y, x each"):
        as_spacing(torch.ones(3), like)
