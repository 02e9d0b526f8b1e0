"""What lies above the frequencies that an image of half the resolution can hold, and the radial spectrum.

Axes: Z/Y/X voxels or frequencies, R radial bins.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from claims.heads import Array
from claims.textures import radius
from mri_fm.models.patches import Size3

HALF = 0.25  # cycles a voxel: Nyquist's frequency after downsampling by 2
LARGEST_GAIN = 2.0


@cache
def above_half(size: Size3) -> Array:
    """1 where some axis has a frequency that an image of half the resolution cannot hold."""
    axes = np.meshgrid(*(np.abs(np.fft.fftfreq(n)) for n in size), indexing="ij")
    return (np.max(axes, axis=0) > HALF).astype(np.float64)


@cache
def bins(size: Size3) -> np.ndarray:
    """The radial bin of every frequency, half as many as the longest axis has voxels."""
    return np.minimum((radius(size) * (max(size) // 2)).astype(int), max(size) // 2 - 1)


def filtered(x_ZYX: Array, gain_ZYX: Array) -> Array:
    """A volume whose frequencies are multiplied by a real gain, the same for f and −f."""
    return fft.irfftn(fft.rfftn(x_ZYX) * half(gain_ZYX), x_ZYX.shape)


def half(spectrum_ZYX: NDArray) -> NDArray:
    """The part of a full spectrum that says all of a real volume."""
    return spectrum_ZYX[..., : spectrum_ZYX.shape[-1] // 2 + 1]


def detail(x_ZYX: Array) -> Array:
    """What an image of half the resolution cannot hold."""
    return filtered(x_ZYX, above_half(size_of(x_ZYX)))


def halved(x_ZYX: Array) -> Array:
    """The volume at half the resolution, by cutting its spectrum: nothing of `detail` is folded into it. Axes are even."""
    size = size_of(x_ZYX)
    kept = np.ix_(*(np.r_[: n // 4, n - n // 4 : n] for n in size))
    return np.fft.ifftn(np.fft.fftn(x_ZYX - x_ZYX.mean())[kept]).real / 8 + x_ZYX.mean()


def radial_power(x_ZYX: Array) -> Array:
    """Mean power in each radial bin, (R,)."""
    return _mean_power(fft.rfftn(x_ZYX), size_of(x_ZYX))


def with_radial_power(x_ZYX: Array, power_R: Array) -> Array:
    """The volume with a given radial spectrum, its phases kept; no bin is raised or lowered by more than `LARGEST_GAIN`."""
    size, spectrum_ZYX = size_of(x_ZYX), fft.rfftn(x_ZYX)
    gain_R = np.sqrt(power_R / np.maximum(_mean_power(spectrum_ZYX, size), 1e-12))
    gain_R = np.clip(gain_R, 1 / LARGEST_GAIN, LARGEST_GAIN)
    gain_R[0] = 1.0
    return fft.irfftn(spectrum_ZYX * gain_R[half(bins(size))], size)


def _mean_power(spectrum_ZYX: NDArray[np.complex128], size: Size3) -> Array:
    """By radial bin, from half a spectrum: planes that stand for −f too count twice."""
    count_ZYX = np.broadcast_to(np.where(np.arange(spectrum_ZYX.shape[-1]) % (size[2] / 2) == 0, 1.0, 2.0), spectrum_ZYX.shape)
    number_P, power_ZYX = half(bins(size)).ravel(), np.abs(spectrum_ZYX) ** 2
    return np.bincount(number_P, (count_ZYX * power_ZYX).ravel()) / np.bincount(number_P, count_ZYX.ravel())


def with_values(x_ZYX: Array, inside_ZYX: np.ndarray, sorted_P: Array) -> Array:
    """The volume with given values inside a mask, in the order of its own: its histogram is theirs exactly."""
    result = x_ZYX.copy()
    place = np.flatnonzero(inside_ZYX)
    result.flat[place[np.argsort(x_ZYX.flat[place], kind="stable")]] = sorted_P
    return result


def size_of(x_ZYX: Array) -> Size3:
    """Its shape as three numbers."""
    depth, height, width = x_ZYX.shape
    return depth, height, width
