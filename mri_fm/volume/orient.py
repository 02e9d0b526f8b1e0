"""Bring a volume into the axis order of the corpus: z, y, x of the closest RAS+ grid. Voxels are moved, never resampled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation, ornt2axcodes
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from mri_fm.volume.read import Volume
from mri_fm.volume.refusal import Refusal

NUDGE = Rotation.from_rotvec([1e-5, -2e-5, 3e-5]).as_matrix()
"""Turned by this, an axis at 45° has a nearest direction, the same one however the voxels are stored and the affine rounded."""


@dataclass(frozen=True)
class RasVolume:
    """A volume on the closest RAS+ grid.

    Attributes:
        array: (Z, Y, X): towards superior, anterior, right.
        affine: float64 (4, 4), (x, y, z, 1) → RAS+ millimetres: the array's axes reversed, as in NIfTI, so that
            `nibabel.Nifti1Image(array.T, affine)` is the image again.
        spacing: millimetres along z, y, x.
        orientation: of the stored array, for instance "LAS".
    """

    array: NDArray[Any]
    affine: NDArray[np.float64]
    spacing: tuple[float, float, float]
    orientation: str


def to_ras(volume: Volume) -> RasVolume:
    """Permute and flip the axes; an oblique volume stays oblique and its affine says so.

    Raises:
        Refusal: no_orientation, where two array axes point along the same anatomical one.
    """
    nudged = volume.affine.copy()
    nudged[:3, :3] = NUDGE @ nudged[:3, :3]
    orientation = io_orientation(nudged)
    if np.isnan(orientation).any():
        raise Refusal("no_orientation", "the affine drops an axis")
    array_XYZ = apply_orientation(volume.array, orientation)
    affine = volume.affine @ inv_ornt_aff(orientation, volume.array.shape)
    spacing = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))[::-1]
    codes = "".join(ornt2axcodes(orientation))
    return RasVolume(array_XYZ.transpose(2, 1, 0), affine, (float(spacing[0]), float(spacing[1]), float(spacing[2])), codes)


def translate(affine: NDArray[np.float64], start_ZYX: tuple[int, int, int]) -> NDArray[np.float64]:
    """The affine of a crop that starts at voxel `start_ZYX`."""
    moved = affine.copy()
    moved[:3, 3] += affine[:3, :3] @ np.asarray(start_ZYX[::-1], np.float64)
    return moved
