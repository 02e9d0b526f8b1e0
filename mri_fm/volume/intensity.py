"""Intensities as int16: 1…32767 for every voxel, so that 0 stays free to mean background."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mri_fm.data.schema import FOREGROUND_MAX
from mri_fm.volume.refusal import Refusal

SCALED_TOLERANCE = 1e-3  # integers that were stored divided by a slope come back this near, from float32 too
SMALLEST_RANGE = 1e-300  # below it the step between two levels is not a normal number
SCALED_RANGE = 32  # of them, at least: a narrow range lies near integers by chance
BLOCK = 1 << 18  # voxels counted at once: `numpy.bincount` makes eight bytes of each, which then stay in the cache


def quantise(array: NDArray[Any]) -> tuple[NDArray[np.int16], float, float]:
    """Map intensities linearly onto 1…32767.

    Integers whose range fits are only shifted and so kept exactly, also where a header's scaling has left rounding errors on
    them; anything else is stretched over the whole range. The result depends on the set of voxels alone, so it commutes with
    flips and permutations.

    Returns:
        (q, scale, offset): int16 of the same shape, and source ≈ q · scale + offset.

    Raises:
        Refusal: non_finite or constant.
    """
    lowest = array.min()
    low, high = float(lowest), float(array.max())
    if not np.isfinite([low, high]).all() or not np.isfinite(high - low):
        raise Refusal("non_finite", "NaN or infinite voxels")
    if high - low < SMALLEST_RANGE:
        raise Refusal("constant", f"every voxel is {low:g}")
    if high - low < FOREGROUND_MAX and is_integral(array, SCALED_TOLERANCE if high - low >= SCALED_RANGE else 0.0):
        low = float(np.rint(low))
        if array.dtype.kind in "iu":
            return _shift(array, int(lowest)), 1.0, low - 1
        return np.rint(array - low).astype(np.int16) + np.int16(1), 1.0, low - 1
    scale = (high - low) / (FOREGROUND_MAX - 1)
    stretched = array.astype(np.float64)
    stretched -= low
    stretched *= 1 / scale
    quantised = np.rint(stretched, out=stretched).astype(np.int16)
    quantised += 1
    return np.minimum(quantised, FOREGROUND_MAX, out=quantised), scale, low - scale


def _shift(array: NDArray[Any], lowest: int) -> NDArray[np.int16]:
    """array - lowest + 1, which fits although neither may: int16 goes round at 2^16."""
    below = (lowest - 1 + (1 << 15)) % (1 << 16) - (1 << 15)
    return np.subtract(array.astype(np.int16, copy=False), np.int16(below))


def is_integral(array: NDArray[Any], tolerance: float = 0.0) -> bool:
    """Whether every voxel is a whole number, to within `tolerance`, whatever its type."""
    if array.dtype.kind in "iu":
        return True
    first = array.reshape(-1)[: 1 << 12]
    return _near_integers(first, tolerance) and _near_integers(array, tolerance)


def _near_integers(array: NDArray[Any], tolerance: float) -> bool:
    if not tolerance:
        return bool((array == np.rint(array)).all())
    return bool(np.abs(array - np.rint(array)).max() <= tolerance)


def histogram(values: NDArray[np.int16]) -> NDArray[np.intp]:
    """How many voxels have each value from 0 to the highest one, as `numpy.bincount` of int16 ≥ 0."""
    flat = values.reshape(-1)
    counts = np.zeros(int(flat.max()) + 1, np.intp)
    for start in range(0, flat.size, BLOCK):
        part = np.bincount(flat[start : start + BLOCK])
        counts[: part.size] += part
    return counts


def quantiles(values: NDArray[np.int16], ranks: Sequence[float]) -> list[float]:
    """Quantiles (linear interpolation, as `numpy.quantile`) of int16 ≥ 0, from a histogram."""
    return quantiles_of(histogram(values), ranks)


def quantiles_of(counts: NDArray[np.intp], ranks: Sequence[float]) -> list[float]:
    """As `quantiles`, from the number of voxels at each value from 0."""
    cumulative = counts.cumsum()
    places = (cumulative[-1] - 1) * np.asarray(ranks)
    below = np.searchsorted(cumulative, np.floor(places), side="right")
    above = np.searchsorted(cumulative, np.ceil(places), side="right")
    return [float(value) for value in below + (above - below) * (places - np.floor(places))]
