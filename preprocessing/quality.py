"""How good a volume is, in numbers that need no reference, and which volumes of a data set stand out.

All of them are the same under linear maps of the intensity. Axis suffixes: Z Y X voxel axes of RAS+.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mri_fm.volume.canonical import Canonical, Crop
from mri_fm.volume.intensity import quantiles

Row = dict[str, Any]

RANKS = (0.05, 0.25, 0.5, 0.75, 0.95)
SAMPLED_VOXELS = 1 << 20  # noise and contrast are estimated on slices that hold about as many
MAD_TO_SIGMA = 1.4826  # of a normal distribution
SECOND_DIFFERENCE = 6**-0.5  # the standard deviation of x[i-1] - 2 x[i] + x[i+1] is √6 times that of the noise
FACES = ("inferior", "superior", "posterior", "anterior", "left", "right")  # ends of z, y, x
NECK = "inferior"  # where a head always goes on
CUT_SHARE = 0.3  # of the largest cross-section along an axis
GHOST_VOXELS = 500
GHOST_GRID = 48  # voxels along an axis at least, of the grid on which ghosts are looked for
GHOST_FLAG = 0.1
SMALLEST_GROUP = 8
OUTLIER_Z = 3.5  # Iglewicz and Hoaglin, How to Detect and Handle Outliers, 1993
LOGARITHMIC = ("snr", "cnr", "foreground_ml")
COMPARED = (*LOGARITHMIC, "foreground_fraction", "ghosting")


def measure(canonical: Canonical, cropped: Crop) -> Row:
    """The manifest's columns on quality.

    Returns:
        foreground_percentiles: stored units at `RANKS`; box_start, box_stop: of the foreground, voxels of the archive's image
        along z, y, x; foreground_ml; snr: foreground's median over background's, per standard deviation of the noise; cnr:
        distance of the means of two classes of the foreground (Otsu), per that deviation; ghosting: excess of the
        background half a field of view beside the foreground, in shares of the foreground; cut_at: faces of the volume that
        cut the object, apart from the neck.
    """
    mask_ZYX = cropped.voxels != 0
    start = _crop_start(canonical, cropped)
    box = [np.flatnonzero(mask_ZYX.any(axis=tuple(a for a in range(3) if a != axis)))[[0, -1]] for axis in range(3)]
    percentiles = quantiles(cropped.voxels[mask_ZYX], RANKS)
    background = _background_level(canonical.voxels, start, mask_ZYX)
    snr, cnr = _snr_cnr(cropped.voxels, mask_ZYX, percentiles[2] - background)
    return {
        "foreground_percentiles": percentiles,
        "box_start": [int(first + ends[0]) for first, ends in zip(start, box, strict=True)],
        "box_stop": [int(first + ends[1] + 1) for first, ends in zip(start, box, strict=True)],
        "foreground_ml": float(mask_ZYX.sum() * np.prod(canonical.spacing) / 1000),
        "snr": snr,
        "cnr": cnr,
        "ghosting": _ghosting(canonical.voxels, start, mask_ZYX, percentiles[2] - background),
        "cut_at": " ".join(_cut_faces(canonical.voxels.shape, start, mask_ZYX)),
    }


def outliers(rows: Sequence[Row]) -> dict[str, Row]:
    """What stands out in its data set and contrast, by key: outlier_z, the largest robust z, and outlier_in, its columns.

    z is the distance from the median in units of the scaled median absolute deviation. Groups of fewer than `SMALLEST_GROUP`
    volumes, and columns in which half of a group is equal, say nothing: outlier_z is None where none said anything.
    """
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row["dataset"], row["contrast"]].append(row)
    found: dict[str, Row] = {row["key"]: {"outlier_z": None, "outlier_in": ""} for row in rows}
    for group in groups.values():
        if len(group) >= SMALLEST_GROUP:
            _compare(group, found)
    return found


def _compare(group: Sequence[Row], found: dict[str, Row]) -> None:
    for column in COMPARED:
        values = np.array([np.nan if row[column] is None else row[column] for row in group], np.float64)
        if column in LOGARITHMIC:
            values = np.log(np.maximum(values, 1e-6))
        spread = MAD_TO_SIGMA * np.nanmedian(np.abs(values - np.nanmedian(values))) if np.isfinite(values).any() else 0.0
        if not spread > 0:
            continue
        for row, z in zip(group, np.abs(values - np.nanmedian(values)) / spread, strict=True):
            about = found[row["key"]]
            if np.isfinite(z):
                about["outlier_z"] = max(float(z), about["outlier_z"] or 0.0)
                about["outlier_in"] = f"{about['outlier_in']} {column}".strip() if z > OUTLIER_Z else about["outlier_in"]


def _crop_start(canonical: Canonical, cropped: Crop) -> list[int]:
    """First voxel of the crop along z, y, x."""
    origin = np.linalg.solve(canonical.affine, cropped.affine[:, 3])
    return [round(float(n)) for n in origin[2::-1]]


def _inner(start: Sequence[int], mask_ZYX: NDArray[np.bool_]) -> tuple[slice, ...]:
    return tuple(slice(first, first + n) for first, n in zip(start, mask_ZYX.shape, strict=True))


def _background_level(voxels_ZYX: NDArray[np.int16], start: Sequence[int], mask_ZYX: NDArray[np.bool_]) -> float:
    """The median of what is not foreground, in the crop; where there is nothing else, the lowest value."""
    outside = voxels_ZYX[_inner(start, mask_ZYX)][~mask_ZYX]
    return quantiles(outside, (0.5,))[0] if outside.size else 1.0


def _snr_cnr(voxels_ZYX: NDArray[np.int16], mask_ZYX: NDArray[np.bool_], signal: float) -> tuple[float | None, float | None]:
    """(snr, cnr); None where no noise is to be seen, as in a smoothed or simulated volume.

    Noise: median absolute second difference along the axis in which the volume has most voxels, inside the foreground.
    """
    step = -(-voxels_ZYX.size // SAMPLED_VOXELS)
    longest = int(np.argmax(voxels_ZYX.shape))
    sliced = 0 if longest else 1
    pick = tuple(slice(None, None, step) if axis == sliced else slice(None) for axis in range(3))
    values = np.moveaxis(voxels_ZYX[pick], longest, 0).astype(np.float32)
    inside = np.moveaxis(mask_ZYX[pick], longest, 0)
    deep = inside[:-2] & inside[1:-1] & inside[2:]
    second = (values[:-2] - 2 * values[1:-1] + values[2:])[deep]
    noise = MAD_TO_SIGMA * SECOND_DIFFERENCE * float(np.median(np.abs(second))) if second.size else 0.0
    if noise == 0:
        return None, None
    return signal / noise, _class_distance(values[inside]) / noise


def _class_distance(values: NDArray[np.float32]) -> float:
    """Distance of the means of the two classes that Otsu's threshold makes."""
    counts, edges = np.histogram(values, 128, range=(float(np.percentile(values, 1)), float(np.percentile(values, 99)) + 1e-3))
    centres = (edges[:-1] + edges[1:]) / 2
    below, weighted = counts.cumsum(), (counts * centres).cumsum()
    above = np.maximum(below[-1] - below, 1)
    distance = (weighted[-1] - weighted) / above - weighted / np.maximum(below, 1)
    return float(distance[np.argmax(below * above * distance**2)])


def _ghosting(voxels_ZYX: NDArray[np.int16], start: Sequence[int], mask_ZYX: NDArray[np.bool_], signal: float) -> float | None:
    """How much brighter the air is where a ghost of the foreground would lie, N/2 along an axis; None without air."""
    if signal <= 0:
        return None
    whole_ZYX = np.zeros(voxels_ZYX.shape, bool)
    whole_ZYX[_inner(start, mask_ZYX)] = mask_ZYX
    coarse = tuple(slice(None, None, max(1, whole_ZYX.shape[axis] // GHOST_GRID)) for axis in range(3))
    whole_ZYX, voxels_ZYX = whole_ZYX[coarse], voxels_ZYX[coarse]
    air = ~_filled_box(whole_ZYX)
    excess: list[float] = []
    for axis in range(3):
        ghost = np.roll(whole_ZYX, whole_ZYX.shape[axis] // 2, axis) & air
        rest = air & ~ghost
        if min(ghost.sum(), rest.sum()) >= GHOST_VOXELS:
            excess.append((float(voxels_ZYX[ghost].mean()) - float(voxels_ZYX[rest].mean())) / signal)
    return max(excess) if excess else None


def _filled_box(mask_ZYX: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask, grown by two voxels along every axis: what lies at its rim is no air."""
    grown = mask_ZYX.copy()
    for axis in range(3):
        once = grown.copy()
        for shift in (-2, -1, 1, 2):
            moved = np.roll(once, shift, axis)
            grown |= moved
    return grown


def _cut_faces(shape: Sequence[int], start: Sequence[int], mask_ZYX: NDArray[np.bool_]) -> list[str]:
    """Faces of the volume on which a large part of the object ends."""
    cut = []
    for axis in range(3):
        areas = mask_ZYX.sum(axis=tuple(a for a in range(3) if a != axis))
        ends = ((start[axis] == 0, areas[0]), (start[axis] + mask_ZYX.shape[axis] == shape[axis], areas[-1]))
        cut += [
            FACES[2 * axis + side] for side, (at_face, area) in enumerate(ends) if at_face and area > CUT_SHARE * areas.max()
        ]
    return [face for face in cut if face != NECK]
