"""The foreground: the head, or the brain of a skull-stripped volume, and the box around it.

A threshold gives candidates; a grid of about 3 mm decides which of them belong to the one large object, which keeps the
connected-component work small and noise out. Inside the object every voxel counts, on its surface those above the threshold.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mri_fm.data.schema import CROP_MARGIN
from mri_fm.volume.intensity import histogram
from mri_fm.volume.refusal import Refusal

GRID_MM = 3.0
STRIPPED_FRACTION = 0.15  # this share of voxels at one value, the smallest: a background that was set
NOISE_RANGE = 0.02  # air in a scan that was not stripped has many voxels this close to the smallest, in shares of the range
MIN_FRACTION = 0.005
HISTOGRAM_BINS = 256
BACKGROUND_SIDE = 0.5  # Otsu's threshold is moved this far back towards the background's mean: it cuts dark CSF and bone


@dataclass(frozen=True)
class Foreground:
    """A crop around the object.

    Attributes:
        mask: bool (Z, Y, X) of the crop.
        start: first voxel of the crop along z, y, x.
        stop: one beyond its last voxel.
    """

    mask: NDArray[np.bool_]
    start: tuple[int, int, int]
    stop: tuple[int, int, int]


def foreground(voxels: NDArray[np.int16], spacing: tuple[float, float, float], level: int = 0) -> Foreground:
    """Find the largest object of a volume.

    Args:
        voxels: int16 (Z, Y, X), quantised, all ≥ 1.
        spacing: millimetres along z, y, x.
        level: as `level_of` gives it, where it is known.

    Raises:
        Refusal: no_foreground.
    """
    candidates = voxels > np.int16(level or level_of(histogram(voxels)))
    factors = [max(1, round(GRID_MM / s)) for s in spacing]
    grid = _largest_object(_block_mean(candidates, factors) >= 0.5, slice_axis=int(np.argmax(spacing)))
    if grid.mean() < MIN_FRACTION:
        raise Refusal("no_foreground", f"the largest object fills {grid.mean():.2%} of the volume")
    near = _neighbours([s * f for s, f in zip(spacing, factors, strict=True)])
    around = _enlarge(ndimage.binary_dilation(grid, near), factors, voxels.shape)
    core = _enlarge(ndimage.binary_erosion(grid, near, border_value=1), factors, voxels.shape)
    return crop_to((candidates & around) | core)


def crop_to(mask: NDArray[np.bool_]) -> Foreground:
    """The box around a mask (Z, Y, X) that is not empty, with the margin."""
    plane_YX: NDArray[np.bool_] = np.any(mask, axis=0)
    lines: list[NDArray[np.bool_]] = [np.any(mask, axis=(1, 2)), np.any(plane_YX, axis=1), np.any(plane_YX, axis=0)]
    ends = [np.flatnonzero(line)[[0, -1]] for line in lines]
    z, y, x = (max(0, int(first) - CROP_MARGIN) for first, _ in ends)
    start = z, y, x
    z, y, x = (min(n, int(last) + 1 + CROP_MARGIN) for (_, last), n in zip(ends, mask.shape, strict=True))
    stop = z, y, x
    return Foreground(np.ascontiguousarray(mask[tuple(map(slice, start, stop))]), start, stop)


def level_of(counts: NDArray[np.intp]) -> int:
    """The highest value, at least 1, of a voxel that is no candidate: the whole part of the threshold."""
    return int(threshold(counts))


def threshold(counts: NDArray[np.intp]) -> float:
    """The intensity above which a voxel may be foreground, from the histogram of a volume.

    The set background of a skull-stripped volume is left out exactly. Otherwise Otsu's threshold (IEEE Trans. SMC 9, 1979)
    of the intensities below their 99.5th percentile, moved towards the background.
    """
    size = int(counts.sum())
    lowest = int(np.flatnonzero(counts)[0])
    top = int(np.searchsorted(counts.cumsum(), 0.995 * size)) + 1
    noise = counts[lowest + 1 : lowest + 1 + max(1, round(NOISE_RANGE * (top - lowest)))].sum()
    if counts[lowest] > STRIPPED_FRACTION * size and counts[lowest] > 10 * noise:
        return float(lowest)
    histogram, edges = np.histogram(np.arange(lowest, top + 1), HISTOGRAM_BINS, weights=counts[lowest : top + 1].astype(float))
    otsu, background = _otsu(histogram, (edges[:-1] + edges[1:]) / 2)
    return otsu - BACKGROUND_SIDE * (otsu - background)


def _otsu(histogram: NDArray[np.float64], centres: NDArray[np.float64]) -> tuple[float, float]:
    """The threshold of greatest variance between the classes, and the mean of the lower class."""
    below = histogram.cumsum()
    weighted = (histogram * centres).cumsum()
    above = below[-1] - below
    mean_below = weighted / np.maximum(below, 1)
    mean_above = (weighted[-1] - weighted) / np.maximum(above, 1)
    best = int(np.argmax(below * above * (mean_below - mean_above) ** 2))
    return float(centres[best]), float(mean_below[best])


def _block_mean(mask: NDArray[np.bool_], factors: list[int]) -> NDArray[np.float64]:
    """Share of true voxels in blocks of `factors`, the last ones as if padded with false.

    Whole planes and rows are added, in bytes as long as these can hold the sum: many times faster than a sum within blocks.
    """
    counts: NDArray[Any] = mask.view(np.uint8)
    size = 1
    for axis, factor in enumerate(factors):
        size *= factor
        planes = np.moveaxis(counts, axis, 0)
        total: NDArray[Any] = planes[::factor].astype(np.uint8 if size <= np.iinfo(np.uint8).max else np.uint32)
        for offset in range(1, factor):
            part = planes[offset::factor]
            total[: len(part)] += part
        counts = np.moveaxis(total, 0, axis)
    return counts / float(size)


def _largest_object(mask: NDArray[np.bool_], slice_axis: int) -> NDArray[np.bool_]:
    """The largest component, its holes filled slice by slice: a skull is dark, and a slab cuts it open at both ends."""
    labels, count = ndimage.label(mask)
    if count == 0:
        return mask
    sizes = np.bincount(labels.reshape(-1))
    in_slice = ndimage.generate_binary_structure(3, 1)
    np.moveaxis(in_slice, slice_axis, 0)[[0, 2]] = False
    largest: NDArray[np.bool_] = labels == 1 + int(np.argmax(sizes[1:]))
    outside, count = ndimage.label(~largest, in_slice)
    open_ = np.zeros(count + 1, bool)
    for axis in {0, 1, 2} - {slice_axis}:
        open_[np.moveaxis(outside, axis, 0)[[0, -1]]] = True
    open_[0] = False
    return largest | ~open_[outside]


def _neighbours(grid_spacing: list[float]) -> NDArray[np.bool_]:
    """The six neighbours on the grid, without those across thick slices."""
    element = ndimage.generate_binary_structure(3, 1)
    for axis, distance in enumerate(grid_spacing):
        if distance > 1.5 * GRID_MM:
            np.moveaxis(element, axis, 0)[[0, 2]] = False
    return element


def _enlarge(grid: NDArray[np.bool_], factors: list[int], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    for axis in (2, 1, 0):  # the last one copies whole planes
        grid = np.repeat(grid, factors[axis], axis)
    return grid[tuple(slice(n) for n in shape)]
