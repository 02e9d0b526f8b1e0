"""The canonical form of a volume, which the archive stores and the content hash covers, and the crop that is trained on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xxhash
from numpy.typing import NDArray

from mri_fm.volume.foreground import foreground
from mri_fm.volume.intensity import is_label, percentiles, quantise
from mri_fm.volume.orient import RasVolume, to_ras, translate
from mri_fm.volume.read import Volume
from mri_fm.volume.refusal import Refusal

MIN_FIELD_OF_VIEW_MM = 50.0
MAX_SPACING_MM = 6.5
SPACING_TOLERANCE_MM = 0.01
MIN_SLICES = 4
ROUNDING_SHIFT_MM = 2.75e-5  # keeps n/1024 mm, so 0.9375, off the edge where noise in an affine would round either way


@dataclass(frozen=True)
class Canonical:
    """A whole volume on its RAS+ grid, background kept.

    Attributes:
        voxels: int16 (Z, Y, X) in 1…32767; source ≈ voxels · scale + offset.
        affine: float64 (4, 4), (x, y, z, 1) → RAS+ millimetres.
        spacing: millimetres along z, y, x.
        orientation: of the source array.
        dtype: of the source voxels.
    """

    voxels: NDArray[np.int16]
    affine: NDArray[np.float64]
    spacing: tuple[float, float, float]
    scale: float
    offset: float
    orientation: str
    dtype: str

    def content_hash(self) -> str:
        """XXH3-128 (hex) of voxels, shape and spacing to 0.001 mm: equal for the same scan stored in another way."""
        digest = xxhash.xxh3_128(self.voxels.astype("<i2", copy=False).data)
        digest.update(repr((self.voxels.shape, [round(s + ROUNDING_SHIFT_MM, 3) for s in self.spacing])).encode())
        return digest.hexdigest()

    def source_moments(self) -> tuple[float, float]:
        """Mean and standard deviation of all voxels, in units of the source."""
        mean = float(self.voxels.mean(dtype=np.float64))
        return mean * self.scale + self.offset, float(self.voxels.std(dtype=np.float64)) * abs(self.scale)


@dataclass(frozen=True)
class Crop:
    """The brain box with a margin, background set to 0.

    Attributes:
        voxels: int16 (Z, Y, X), 0 in the background and nowhere else.
        affine: of the crop.
        foreground_fraction: share of voxels that are not 0.
        p01, p99: percentiles over the foreground; crop_p01, crop_p99: over the whole crop.
    """

    voxels: NDArray[np.int16]
    affine: NDArray[np.float64]
    foreground_fraction: float
    p01: float
    p99: float
    crop_p01: float
    crop_p99: float


def canonicalise(volume: Volume, *, max_spacing: float = MAX_SPACING_MM) -> Canonical:
    """Check a volume against the rules and bring it into canonical form.

    Raises:
        Refusal: too_few_slices, spacing, field_of_view, non_finite, constant, label or no_orientation.
    """
    ras = to_ras(volume)
    check_geometry(ras, max_spacing=max_spacing)
    voxels, scale, offset = quantise(ras.array)
    if is_label(voxels, scale):
        raise Refusal("label", "few distinct whole numbers")
    voxels = np.ascontiguousarray(voxels)
    return Canonical(voxels, ras.affine, ras.spacing, scale, offset, ras.orientation, volume.dtype)


def check_geometry(ras: RasVolume, *, max_spacing: float) -> None:
    """The rules on shape, spacing and field of view.

    Raises:
        Refusal: too_few_slices, spacing or field_of_view.
    """
    shape = ras.array.shape
    extent = [n * s for n, s in zip(shape, ras.spacing, strict=True)]
    if min(shape) < MIN_SLICES:
        raise Refusal("too_few_slices", f"shape {shape} (z, y, x), at least {MIN_SLICES} are needed")
    if max(ras.spacing) > max_spacing + SPACING_TOLERANCE_MM:
        raise Refusal("spacing", f"{max(ras.spacing):.2f} mm between voxels, more than {max_spacing:g}")
    if min(extent) <= MIN_FIELD_OF_VIEW_MM:
        raise Refusal("field_of_view", f"{min(extent):.1f} mm, not more than {MIN_FIELD_OF_VIEW_MM:g}")


def crop(canonical: Canonical) -> Crop:
    """Cut the foreground's box out and set the background to 0.

    Raises:
        Refusal: no_foreground.
    """
    found = foreground(canonical.voxels, canonical.spacing)
    voxels = np.where(found.mask, canonical.voxels[tuple(map(slice, found.start, found.stop))], np.int16(0))
    p01, p99 = percentiles(voxels[found.mask])
    crop_p01, crop_p99 = percentiles(voxels)
    affine = translate(canonical.affine, found.start)
    return Crop(voxels, affine, float(found.mask.mean()), p01, p99, crop_p01, crop_p99)
