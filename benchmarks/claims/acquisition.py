"""How a rendering was scanned: what every label is independent of.

Axes: Z/Y/X voxels.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass

import numpy as np
from scipy import ndimage

from claims.heads import Array, Mask

SITES = ("A", "B", "C")
BRIGHTEST = 4000.0


@dataclass(frozen=True)
class Acquisition:
    """One scan's settings.

    Attributes:
        site: which of SITES; it shifts all the others.
        contrast: log of the exponent of the intensity curve.
        bias: standard deviation of the log field.
        noise: standard deviation, in parts of the brightest tissue.
        thickness: of slices along z: standard deviation of the blur, voxels.
    """

    site: str
    contrast: float
    bias: float
    noise: float
    thickness: float

    @property
    def numbers(self) -> tuple[float, ...]:
        """All but the site."""
        return astuple(self)[1:]


def draw_acquisition(rng: np.random.Generator) -> Acquisition:
    """A site, and settings about that site's."""
    site = int(rng.integers(len(SITES)))
    contrast = 0.15 * (site - 1) + 0.1 * rng.standard_normal()
    return Acquisition(SITES[site], contrast, rng.uniform(0.02, 0.1), rng.uniform(0.005, 0.02) + 0.005 * site,
                       rng.uniform(0.0, 0.3) + 0.1 * ((site + 1) % 3))  # fmt: skip


def acquire(x_ZYX: Array, inside_ZYX: Mask, acquisition: Acquisition, rng: np.random.Generator) -> Array:
    """The scan, whole numbers ≥ 1 inside the head and 0 outside."""
    low, high = np.quantile(x_ZYX[inside_ZYX], [0.001, 0.999])
    level_ZYX = np.where(inside_ZYX, np.clip((x_ZYX - low) / (high - low), 0, 1), 0)
    level_ZYX = (
        ndimage.gaussian_filter1d(level_ZYX, acquisition.thickness, axis=0) if acquisition.thickness > 0.05 else level_ZYX
    )
    level_ZYX = level_ZYX ** np.exp(acquisition.contrast) * np.exp(_field(x_ZYX.shape, acquisition.bias, rng))
    level_ZYX = 0.1 + level_ZYX + acquisition.noise * rng.standard_normal(x_ZYX.shape)
    return np.where(inside_ZYX, np.maximum(1.0, np.round(level_ZYX * BRIGHTEST)), 0.0)


def _field(shape: tuple[int, ...], std: float, rng: np.random.Generator) -> Array:
    """A smooth field by cubic interpolation of random values on a grid of 3³."""
    coarse = rng.standard_normal((3, 3, 3))
    field = ndimage.zoom(coarse, [n / 3 for n in shape], order=3)
    return std * (field - field.mean()) / field.std()
