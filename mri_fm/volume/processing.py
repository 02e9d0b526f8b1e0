"""What may be done to a volume on its way into a corpus, all of it off by default: bias correction and resampling.

SimpleITK does both, on one thread, so that the same volume gives the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK
from numpy.typing import NDArray

from mri_fm.errors import UserError
from mri_fm.volume.brain import FOREGROUND, MASK, check_brain
from mri_fm.volume.orient import RasVolume

N4_GRID_MM = 4.0  # the field is smooth: it is fitted on voxels of about this size
FWHM_TO_SIGMA = 1 / 2.3548


@dataclass(frozen=True)
class Processing:
    """Options.

    `brain`: what the foreground is, see `mri_fm.volume.brain`; `n4`: correct the bias field by N4 (Tustison et al., IEEE TMI
    29, 2010); `resample`: mm of the cubic voxels to resample to, 0 to keep the native grid.
    """

    brain: str = FOREGROUND
    n4: bool = False
    resample: float = 0.0

    def __post_init__(self) -> None:
        check_brain(self.brain)
        if self.resample and not 0.3 <= self.resample <= 10:
            raise UserError(f"--resample {self.resample:g} must lie between 0.3 and 10 mm, or be 0 for the native grid")
        if self.resample and self.brain == MASK:
            raise UserError("--brain mask goes with the native grid: leave out --resample, or take another --brain")

    @property
    def changes(self) -> bool:
        """Whether intensities or the grid change."""
        return self.n4 or self.resample > 0

    def apply(self, ras: RasVolume) -> RasVolume:
        """The volume after bias correction and resampling; itself where neither is asked for."""
        if self.n4:
            ras = correct_bias(ras)
        return resample(ras, self.resample) if self.resample else ras


def correct_bias(ras: RasVolume) -> RasVolume:
    """Divide by the bias field that N4 finds in the voxels above Otsu's threshold; the lowest intensity becomes 0 first."""
    array = ras.array.astype(np.float32)
    image = _image(array - array.min(), ras.spacing)
    factors = [max(1, round(N4_GRID_MM / step)) for step in ras.spacing[::-1]]
    small = SimpleITK.Shrink(image, factors)
    mask = SimpleITK.OtsuThreshold(small, 0, 1, 200)
    n4 = SimpleITK.N4BiasFieldCorrectionImageFilter()
    n4.SetNumberOfThreads(1)
    n4.Execute(small, mask)
    field = SimpleITK.Exp(n4.GetLogBiasFieldAsImage(image))
    return _changed(ras, SimpleITK.GetArrayFromImage(image / field), ras.affine, ras.spacing)


def resample(ras: RasVolume, spacing: float) -> RasVolume:
    """Linear interpolation on cubic voxels; along axes that become coarser, smoothed to the new voxels' width first.

    The outer faces of the first voxels stay where they are. `spacing` in mm.
    """
    shape = [max(1, round(n * step / spacing)) for n, step in zip(ras.array.shape, ras.spacing, strict=True)]
    image = _image(ras.array.astype(np.float32), ras.spacing)
    for axis, step in enumerate(ras.spacing[::-1]):
        if spacing > step:
            sigma = FWHM_TO_SIGMA * float(np.sqrt(spacing**2 - step**2))
            gaussian = SimpleITK.RecursiveGaussianImageFilter()
            gaussian.SetNumberOfThreads(1)
            gaussian.SetDirection(axis)
            gaussian.SetSigma(sigma)
            image = gaussian.Execute(image)
    shift = [(spacing - step) / 2 for step in ras.spacing[::-1]]  # of the first centre, x, y, z
    onto = SimpleITK.ResampleImageFilter()
    onto.SetNumberOfThreads(1)
    onto.SetSize(shape[::-1])
    onto.SetOutputSpacing([spacing] * 3)
    onto.SetOutputOrigin(shift)
    onto.SetInterpolator(SimpleITK.sitkLinear)
    onto.SetUseNearestNeighborExtrapolator(True)
    array = SimpleITK.GetArrayFromImage(onto.Execute(image))
    directions = ras.affine[:3, :3] / np.asarray(ras.spacing[::-1])
    affine = np.eye(4)
    affine[:3, :3] = directions * spacing
    affine[:3, 3] = ras.affine[:3, 3] + directions @ shift
    return _changed(ras, array, affine, (spacing,) * 3)


def _image(array_ZYX: NDArray[np.float32], spacing_ZYX: tuple[float, float, float]) -> SimpleITK.Image:
    image = SimpleITK.GetImageFromArray(array_ZYX)
    image.SetSpacing(spacing_ZYX[::-1])
    return image


def _changed(
    ras: RasVolume, array: NDArray[np.float32], affine: NDArray[np.float64], spacing: tuple[float, float, float]
) -> RasVolume:
    return RasVolume(np.ascontiguousarray(array), affine, spacing, ras.orientation)
