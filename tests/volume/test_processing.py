"""Bias correction and resampling, on volumes whose truth is known."""

import numpy as np
import pytest
from numpy.typing import NDArray

from mri_fm.errors import UserError
from mri_fm.volume.orient import RasVolume
from mri_fm.volume.processing import Processing, correct_bias, resample


def ball() -> NDArray[np.float64]:
    z, y, x = np.indices((48, 56, 48))
    radius = np.sqrt((z - 24) ** 2 + (y - 28) ** 2 + (x - 24) ** 2)
    return np.where(radius < 14, 600.0, np.where(radius < 20, 400.0, 0.0))


def ras(array: NDArray[np.float64], spacing: tuple[float, float, float] = (2.0, 2.0, 2.0)) -> RasVolume:
    affine = np.diag([*spacing[::-1], 1.0])
    affine[:3, 3] = [-40, -50, -60]
    return RasVolume(array, affine, spacing, "RAS")


def test_n4_takes_most_of_a_smooth_field_away_and_is_the_same_twice() -> None:
    truth = ball()
    field = np.exp(np.linspace(-0.4, 0.4, 56))[None, :, None]
    inside = truth == 600
    corrected = correct_bias(ras(truth * field)).array

    def unevenness(array: NDArray[np.floating]) -> float:
        return float(array[inside].std() / array[inside].mean())

    assert unevenness(corrected) < 0.35 * unevenness(truth * field)
    assert np.array_equal(corrected, correct_bias(ras(truth * field)).array)


@pytest.mark.parametrize("target", [1.5, 3.0])
def test_resampling_keeps_every_point_where_it_was(target: float) -> None:
    z, y, x = np.indices((30, 40, 20)).astype(float)
    spacing = (3.0, 1.0, 2.0)
    volume = ras(5 * z + 3 * y + 7 * x, spacing)  # linear: interpolation is exact inside
    after = resample(volume, target)
    assert after.spacing == (target,) * 3
    grid = np.argwhere(np.ones(after.array.shape, bool))[:, ::-1]
    world = grid @ after.affine[:3, :3].T + after.affine[:3, 3]
    x_, y_, z_ = ((world - volume.affine[:3, 3]) / np.array(spacing[::-1])).T
    expected = (5 * z_ + 3 * y_ + 7 * x_).reshape(after.array.shape)
    inner = tuple(slice(n // 4, -(n // 4)) for n in after.array.shape)
    assert np.allclose(after.array[inner], expected[inner], atol=0.2)


def test_outer_faces_stay() -> None:
    volume = ras(ball())
    after = resample(volume, 4.0)
    assert after.array.shape == (24, 28, 24)
    assert np.allclose(after.affine @ [-0.5, -0.5, -0.5, 1], volume.affine @ [-0.5, -0.5, -0.5, 1])


def test_nothing_is_done_by_default_and_mistakes_are_named() -> None:
    volume = ras(ball())
    assert Processing().apply(volume) is volume
    assert not Processing().changes
    with pytest.raises(UserError, match="--resample 50"):
        Processing(resample=50)
    with pytest.raises(UserError, match="native grid"):
        Processing(brain="mask", resample=1)
