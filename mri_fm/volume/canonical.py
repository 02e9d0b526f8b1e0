"""The canonical form of a volume, which the archive stores and the content hash covers, and the crop that is trained on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import xxhash
from numpy.typing import NDArray
from scipy import ndimage

from mri_fm.volume.content import check_content, check_units, fill_non_finite
from mri_fm.volume.foreground import crop_to, foreground, level_of
from mri_fm.volume.intensity import histogram, quantiles_of, quantise
from mri_fm.volume.orient import RasVolume, to_ras, translate
from mri_fm.volume.read import Volume
from mri_fm.volume.refusal import Refusal

MIN_FIELD_OF_VIEW_MM = 50.0
MAX_SPACING_MM = 6.5
SPACING_TOLERANCE_MM = 0.01
MIN_SLICES = 4
RANKS = (0.01, 0.99)
MAX_SHEAR = 0.05  # cosine of the angle between two axes, which is 3° off a right one
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
        repaired: voxels of the background that were NaN or infinite and now have the lowest value.
    """

    voxels: NDArray[np.int16]
    affine: NDArray[np.float64]
    spacing: tuple[float, float, float]
    scale: float
    offset: float
    orientation: str
    dtype: str
    repaired: int = 0

    def content_hash(self) -> str:
        """XXH3-128 (hex) of voxels, shape and spacing to 0.001 mm: equal for the same scan stored in another way."""
        digest = xxhash.xxh3_128(self.voxels.astype("<i2", copy=False).data)
        digest.update(repr((self.voxels.shape, [round(s + ROUNDING_SHIFT_MM, 3) for s in self.spacing])).encode())
        return digest.hexdigest()

    @cached_property
    def counts(self) -> NDArray[np.intp]:
        """How many voxels have each value from 0."""
        return histogram(self.voxels)

    def source_moments(self) -> tuple[float, float]:
        """Mean and standard deviation of all voxels, in units of the source."""
        counts = self.counts.astype(np.float64)
        values = np.arange(counts.size)
        mean = float(counts @ values / counts.sum())
        std = float(np.sqrt(counts @ (values - mean) ** 2 / counts.sum()))
        return mean * self.scale + self.offset, std * abs(self.scale)


@dataclass(frozen=True)
class Crop:
    """The brain box with a margin, background set to 0.

    Attributes:
        voxels: int16 (Z, Y, X), 0 in the background and nowhere else.
        affine: of the crop.
        foreground_fraction: share of voxels that are not 0.
        p01, p99: percentiles over the foreground; crop_p01, crop_p99: over the whole crop.
        level: of the foreground, see `foreground.level_of`; 0 where a mask was given.
    """

    voxels: NDArray[np.int16]
    affine: NDArray[np.float64]
    foreground_fraction: float
    p01: float
    p99: float
    crop_p01: float
    crop_p99: float
    level: int = 0


def canonicalise(
    volume: Volume,
    *,
    max_spacing: float = MAX_SPACING_MM,
    process: Callable[[RasVolume], RasVolume] | None = None,
    known: bool = False,
) -> Canonical:
    """Check a volume against the rules and bring it into canonical form; `process` changes it once its content is known.

    A volume that is `known` has passed before: what its voxels say is not asked again.

    Raises:
        Refusal: too_few_slices, spacing, field_of_view, sheared, no_orientation, non_finite, constant, label, not_mr or
            derived_map.
    """
    ras = to_ras(volume)
    check_geometry(ras, max_spacing=max_spacing)
    array, filled = fill_non_finite(ras.array)
    if not known:
        check_units(array, float(array.min()), float(array.max()))
    voxels, scale, offset = quantise(array)
    voxels = np.ascontiguousarray(voxels)
    if not known:
        check_content(voxels, scale)
    repaired = 0 if filled is None else _count_in_background(filled, voxels, ras.spacing)
    if process is not None:
        ras = process(replace(ras, array=array))
        voxels, scale, offset = quantise(ras.array)
    return Canonical(voxels, ras.affine, ras.spacing, scale, offset, ras.orientation, volume.dtype, repaired)


def _count_in_background(filled: NDArray[np.bool_], voxels: NDArray[np.int16], spacing: tuple[float, float, float]) -> int:
    """How many voxels were filled, none of them inside the head, where the filling would be an invention.

    Outside is what reaches the edge of the volume through voxels of the lowest value, also in a furrow of the brain.
    """
    components, _ = ndimage.label(voxels == 1)
    edges = np.zeros(filled.shape, bool)
    for axis in range(3):
        np.moveaxis(edges, axis, 0)[[0, -1]] = True
    enclosed = filled & ~np.isin(components, components[edges & (components > 0)])
    found = foreground(voxels, spacing)
    inside = int((enclosed[tuple(map(slice, found.start, found.stop))] & found.mask).sum())
    if inside:
        raise Refusal("non_finite", f"{inside} voxels inside the head are NaN or infinite")
    return int(filled.sum())


def check_geometry(ras: RasVolume, *, max_spacing: float) -> None:
    """The rules on shape, spacing, field of view and right angles.

    Raises:
        Refusal: too_few_slices, spacing, field_of_view or sheared.
    """
    shape = ras.array.shape
    extent = [n * s for n, s in zip(shape, ras.spacing, strict=True)]
    if min(shape) < MIN_SLICES:
        raise Refusal("too_few_slices", f"shape {shape} (z, y, x), at least {MIN_SLICES} are needed")
    if max(ras.spacing) > max_spacing + SPACING_TOLERANCE_MM:
        raise Refusal("spacing", f"{max(ras.spacing):.2f} mm between voxels, more than {max_spacing:g}")
    if min(extent) <= MIN_FIELD_OF_VIEW_MM:
        raise Refusal("field_of_view", f"{min(extent):.1f} mm, not more than {MIN_FIELD_OF_VIEW_MM:g}")
    directions = ras.affine[:3, :3] / np.array(ras.spacing[::-1])
    shear = float(np.abs(directions.T @ directions - np.eye(3)).max())
    if shear > MAX_SHEAR:
        raise Refusal("sheared", f"two axes are {np.degrees(np.arcsin(min(shear, 1.0))):.1f}° off a right angle")


def crop(canonical: Canonical, mask: NDArray[np.bool_] | None = None, level: int = 0) -> Crop:
    """Cut the box of the mask, or of the foreground where there is none, out and set the background to 0.

    `level` of the foreground, where it is known.

    Raises:
        Refusal: no_foreground.
    """
    if mask is None:
        level = level or level_of(canonical.counts)
        found = foreground(canonical.voxels, canonical.spacing, level)
    else:
        level, found = 0, crop_to(mask)
    voxels = canonical.voxels[tuple(map(slice, found.start, found.stop))] * found.mask
    counts = histogram(voxels)
    crop_p01, crop_p99 = quantiles_of(counts, RANKS)
    counts[0] = 0  # the background is 0, and nothing else is
    p01, p99 = quantiles_of(counts, RANKS)
    affine = translate(canonical.affine, found.start)
    return Crop(voxels, affine, float(found.mask.mean()), p01, p99, crop_p01, crop_p99, level)
