"""Textures of a given spectrum: the fine structure whose statistics can be known and whose phases cannot.

Axes: Z/Y/X voxels or frequencies.
"""

from __future__ import annotations

import numpy as np

from claims.heads import Array, Mask
from mri_fm.losses.spectrum import Spectrum
from mri_fm.models.patches import Size3


def radius(size: Size3) -> Array:
    """|f| over the largest frequency, that of the corner, for every bin of a full spectrum."""
    return Spectrum().radius(size, half=False).numpy()


def random_phase(amplitude_ZYX: Array, seed: int) -> Array:
    """Noise whose amplitude spectrum is the given one on average and whose phases are random; standard deviation 1."""
    white = np.random.default_rng(seed).standard_normal(amplitude_ZYX.shape)
    coloured = np.fft.ifftn(np.fft.fftn(white) * amplitude_ZYX).real
    return coloured / coloured.std()


def falling(size: Size3, *, above: float, power: float = 2.0) -> Array:
    """Amplitudes |f|^-power above a frequency, 0 below: how the detail of anatomy falls off."""
    rho = radius(size)
    return np.where(rho >= above, np.maximum(rho, above) ** -power, 0.0)


def flat(size: Size3, *, above: float) -> Array:
    """Amplitudes that are equal above a frequency: what white noise has there."""
    return (radius(size) >= above).astype(np.float64)


def placed(texture_ZYX: Array, inside_ZYX: Mask, std: float) -> Array:
    """The texture inside a mask alone, with a standard deviation of `std` there."""
    return np.where(inside_ZYX, texture_ZYX * (std / texture_ZYX[inside_ZYX].std()), 0.0)
