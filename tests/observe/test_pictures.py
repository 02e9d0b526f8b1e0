import numpy as np
import pytest

from mri_fm.observe.pictures import figures, radial_mean, token_colours


def test_radial_mean_of_a_radial_function_is_that_function():
    axes = [np.fft.fftshift(np.fft.fftfreq(n)) for n in (32, 40, 24)]
    radius = np.sqrt(sum(grid**2 for grid in np.meshgrid(*axes, indexing="ij")))
    frequency, mean = radial_mean(radius)
    np.testing.assert_allclose(mean, frequency, atol=0.5 / 32)
    assert frequency[-1] < 0.5


def test_token_colours_follow_the_features():
    """Two kinds of tokens have two colours; tokens that are all alike are grey."""
    tokens = np.zeros((2, 3, 4, 8), np.float32)
    tokens[1] = np.arange(8)
    colours, share = token_colours(tokens)
    assert share == pytest.approx([1, 0, 0], abs=1e-9)
    assert len({tuple(colour) for colour in colours[0].reshape(-1, 3)}) == 1
    assert abs(colours[0, 0, 0, 0] - colours[1, 0, 0, 0]) == pytest.approx(1)
    assert (token_colours(np.ones((2, 3, 4, 8), np.float32))[0] == 0.5).all()


def test_figures_are_those_that_the_arrays_allow():
    truth = np.random.default_rng(0).normal(size=(8, 12, 10)).astype(np.float32)
    both = {"truth": truth, "mosaic": truth, "hidden": truth > 0, "tokens": truth.reshape(2, 3, 4, 40)}
    assert set(figures(both)) == {"reconstruction", "tokens"}
    assert set(figures({"truth": truth, "tokens": both["tokens"]})) == {"tokens"}
    panels = [axis.get_title() for axis in figures(both)["reconstruction"].axes]
    assert panels[:6] == ["input", "visible to the encoder", "reconstruction", "error", "log-spectrum of the input",
                          "of the reconstruction"]  # fmt: skip
