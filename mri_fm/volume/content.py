"""What the voxels themselves say against a volume: a segmentation, a mask, a CT, a phase image, or holes that are not numbers.

Names play no part here. The limits were set between real scans and real atlases; docs/intake.md has the numbers.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mri_fm.volume.refusal import Refusal

LABEL_VALUES = 32  # integer volumes with no more distinct values than this are segmentations
EQUAL_NEIGHBOURS = 0.6  # share of neighbours inside the object with one value: labels are above, scans below
MASK_TOP = 0.7  # share of the voxels above the lowest value that have the highest one: masks with soft edges are above
SAMPLES = 200_000  # of the voxels suffice for a share; their stride is odd, so that a regular pattern of slices is not missed
AIR_HU, WATER_HU = (-1050, -950), (-150, 150)  # Hounsfield units of air, and of soft tissue
SHARE_HU = 0.05  # of either, at least
PHASE_MARGIN = 0.04  # radians between the extremes of a phase image and ±π


def check_content(quantised: NDArray[np.int16], scale: float) -> None:
    """Refuse segmentations and masks.

    Args:
        quantised: as `intensity.quantise` returns it.
        scale: 1.0 where the source holds whole numbers.

    Raises:
        Refusal: label.
    """
    if scale == 1.0 and has_few_values(quantised):
        raise Refusal("label", f"{LABEL_VALUES} distinct whole numbers or fewer")
    if scale == 1.0 and (equal := equal_neighbours(quantised)) > EQUAL_NEIGHBOURS:
        raise Refusal("label", f"regions of one whole number each: {equal:.0%} of neighbours are equal")
    sample = _sample(quantised)
    top = float((sample == sample.max()).sum() / max(1, int((sample > 1).sum())))
    if top > MASK_TOP:
        raise Refusal("label", f"a mask: {top:.0%} of what is above the lowest value has the highest")


def check_units(array: NDArray[Any], low: float, high: float) -> None:
    """Refuse Hounsfield units and radians, which a file may hold without saying so.

    Args:
        array: finite voxels of the source.
        low, high: their extremes.

    Raises:
        Refusal: not_mr or derived_map.
    """
    if low <= AIR_HU[1] and all(_share(array, limits) > SHARE_HU for limits in (AIR_HU, WATER_HU)):
        raise Refusal("not_mr", "CT: voxels at the Hounsfield units of air and of soft tissue")
    if abs(low + math.pi) < PHASE_MARGIN and abs(high - math.pi) < PHASE_MARGIN:
        raise Refusal("derived_map", "phase: voxels from -π to π")


def fill_non_finite(array: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """Put the lowest finite value, or 0 if that is lower, in place of NaN and infinity.

    Returns:
        The voxels, and where they were filled; the array itself and None where nothing was.

    Raises:
        Refusal: non_finite, where no voxel is finite.
    """
    if array.dtype.kind in "iu" or np.isfinite([array.min(), array.max()]).all():
        return array, None
    finite = np.isfinite(array)
    if not finite.any():
        raise Refusal("non_finite", "no voxel is a finite number")
    return np.where(finite, array, min(array[finite].min(), array.dtype.type(0))), ~finite


def has_few_values(quantised: NDArray[np.int16]) -> bool:
    """Whether there are no more than `LABEL_VALUES` distinct voxels."""
    return _distinct(_sample(quantised)) <= LABEL_VALUES and _distinct(quantised) <= LABEL_VALUES


def equal_neighbours(quantised: NDArray[np.int16]) -> float:
    """Share of pairs of neighbours with the same value, of those off the most frequent value, on a sample; the least axis."""
    flat, step = quantised.reshape(-1), _stride(quantised)
    background = np.bincount(_sample(quantised)).argmax()
    shares = []
    for stride in (math.prod(quantised.shape[axis + 1 :]) for axis in range(3)):
        here, there = flat[: -stride or None : step], flat[stride::step]
        inside = (here != background) & (there != background)
        shares.append(float(((here == there) & inside).sum() / max(1, inside.sum())))
    return min(shares)


def _stride(quantised: NDArray[np.int16]) -> int:
    return max(1, quantised.size // SAMPLES) | 1


def _sample(quantised: NDArray[np.int16]) -> NDArray[np.int16]:
    return quantised.reshape(-1)[:: _stride(quantised)]


def _share(array: NDArray[Any], limits: tuple[int, int]) -> float:
    return float(((array >= limits[0]) & (array <= limits[1])).mean())


def _distinct(values: NDArray[np.int16]) -> int:
    return int(np.count_nonzero(np.bincount(values.reshape(-1), minlength=2)))
