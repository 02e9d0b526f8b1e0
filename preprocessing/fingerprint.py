"""A fingerprint of a head's anatomy that survives resampling, turning, scaling of intensities, bias and small crops.

Intensities become ranks; an affine map aligns first the outline of the tissue with that of a reference head, then the brain's
own pattern with the reference's (inverse compositional Gauss-Newton: Baker & Matthews, IJCV 56, 2004), so that skull, neck and
the edges of the volume count little. On the reference's grid local normalisation leaves folds and ventricles. The part of it
that people share is removed (`individual`), so that two people's fingerprints are about uncorrelated, and those
of one anatomy are not. docs/leakage.md has the error rates.

Axes: N volumes, D features, P points (as z, y, x in millimetres), L levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Bools = NDArray[np.bool_]

VERSION = 1  # raise it when fingerprints change
REFERENCE_FILE = Path(__file__).with_name("reference_head.npz")
NEAR_DUPLICATE = 0.5
"""The least correlation of two fingerprints that tells one anatomy; calibrated by benchmarks/near_duplicates.py."""

HALF_EXTENT_MM = (72.0, 96.0, 80.0)  # of the reference's grids along z, y, x
OUTLINE_MM, FEATURE_MM = 8.0, 4.0  # their spacings
COARSE_MM = 3.0
RANKS = 33
TISSUE = 0.22  # of the smoothed ranks, which run from 0 to 1
DETAIL_FWHM_MM, OUTLINE_FWHM_MM, LOCAL_SIGMA_MM = 5.0, 9.0, 8.0
LEVELS_FWHM_MM = (20.0, 12.0)
TEXTURE_FWHM_MM = (16.0, 9.0)
SHRINKING, LIFT_MM = (1.0, 0.9, 0.8), (-18.0, 0.0, 18.0)  # of the outline's map: with a skull it is the head's, not the brain's
STEPS, STILL = 25, 2e-3
LEVER_MM = 60.0  # brings the nine entries of a matrix and the three of a shift to one scale
UPPER_HEAD_MM3 = 600e3
CUT_AREA_MM2 = 600.0  # this much tissue on a face of the box: the head goes on beyond it
CLIP = 2.5
MIN_PEOPLE = 20  # from which on a contrast's own mean pattern is known


@dataclass(frozen=True)
class Level:
    """The reference's outline, blurred: points where it changes, its values there, and the solver of one step."""

    fwhm: float
    points_P3: Doubles
    values_P: Doubles
    steepest_PK: Doubles
    inverse_KK: Doubles


@dataclass(frozen=True)
class Reference:
    """The reference head: its levels, the features' places and weights, and the pattern that people share (None: none)."""

    levels_L: tuple[Level, ...]
    textures_L: tuple[Level, ...]
    points_D3: Doubles
    weight: Floats
    kept: Bools
    shared_D: Floats | None


class Head:
    """A volume made ready to be aligned: ranks of its intensities on a coarse grid, and the outline of its tissue."""

    def __init__(self, voxels: NDArray[np.int16], spacing: Sequence[float]) -> None:
        """`voxels` as in a shard, 0 in the background; `spacing` in mm; both along z, y, x."""
        self.ranks, self.spacing = _coarse(_ranks(voxels), spacing)
        tissue = self.blurred(self.ranks, OUTLINE_FWHM_MM) > TISSUE
        labels, count = ndimage.label(tissue)
        if count > 1:
            tissue = labels == 1 + int(np.argmax(np.bincount(labels.reshape(-1))[1:]))
        self.tissue = ndimage.binary_fill_holes(tissue).astype(np.float32)
        self.cut = tuple(self._cut(axis) for axis in range(3))

    def blurred(self, array: Floats, fwhm: float) -> Floats:
        """Smoothed to a resolution of `fwhm` mm; the coarse voxels' own extent counts."""
        sigma = [np.sqrt(max((fwhm / 2.355) ** 2 - step**2 / 12, 0.01)) / step for step in self.spacing]
        return ndimage.gaussian_filter(array, sigma, mode="nearest")

    def texture(self, fwhm: float) -> Floats:
        """What of the ranks is above or below their surroundings, at a resolution of `fwhm` mm."""
        sigma = [1.5 * fwhm / 2.355 / step for step in self.spacing]

        def smooth(array: NDArray[np.floating[Any]]) -> Floats:
            return ndimage.gaussian_filter(array, sigma, mode="nearest", output=np.float32)

        detail, total = self.blurred(self.ranks, fwhm), np.maximum(smooth(self.tissue), 1e-2)
        centred = detail - smooth(detail * self.tissue) / total
        spread = np.sqrt(np.maximum(smooth(centred**2 * self.tissue) / total, 0))
        return (np.clip(centred / (spread + 0.02), -CLIP, CLIP) * self.tissue).astype(np.float32)

    def sample(self, array: Floats, points_P3: Doubles) -> Doubles:
        """Linear interpolation at points in mm from the first voxel; 0 outside."""
        return ndimage.map_coordinates(array, (points_P3 / self.spacing).T, order=1, mode="constant", output=np.float64)

    def seen(self, points_P3: Doubles) -> Bools:
        """Which points do not lie beyond a face that cuts the head off."""
        inside = np.ones(len(points_P3), bool)
        for axis, (low, high) in enumerate(self.cut):
            place = points_P3[:, axis] / self.spacing[axis]
            inside &= (place >= 1) | (not low)
            inside &= (place <= self.tissue.shape[axis] - 2) | (not high)
        return inside

    def centre(self) -> Doubles:
        """A place inside the brain that does not depend on how far down the volume reaches: the middle of the upper head."""
        dz, dy, dx = self.spacing
        above = np.append(np.cumsum(self.tissue.sum(axis=(1, 2))[::-1])[::-1], 0) * dz * dy * dx
        edges = (np.arange(len(above)) - 0.5) * dz
        z = np.interp(-min(UPPER_HEAD_MM3, 0.6 * above[0]), -above, edges)
        upper = self.tissue[int(np.ceil(max(z, 0) / dz)) :]
        y, x = (float((upper.sum(axis=(0, 3 - a)) * np.arange(upper.shape[a])).sum() / max(upper.sum(), 1)) for a in (1, 2))
        return np.array([z, y * dy, x * dx])

    def _cut(self, axis: int) -> tuple[bool, bool]:
        face = float(np.prod(self.spacing)) / self.spacing[axis]
        low, high = (self.tissue.take(end, axis).sum() * face > CUT_AREA_MM2 for end in (0, -1))
        return bool(low), bool(high)


def fingerprint(voxels: NDArray[np.int16], spacing: Sequence[float], reference: Reference | None = None) -> Floats:
    """The pattern of one head on the reference's grid, float32 (D,), not yet an individual's.

    Args:
        voxels: int16 (Z, Y, X), cropped, 0 in the background, as in a shard.
        spacing: mm along z, y, x.
        reference: another than the one that comes with the package.
    """
    reference = reference or load_reference()
    head = Head(voxels, spacing)
    matrix, shift = refine(head, reference.textures_L, *align(head, reference.levels_L))
    points_D3 = reference.points_D3 @ matrix.T + shift
    detail = head.sample(head.blurred(head.ranks, DETAIL_FWHM_MM), points_D3)
    weight = reference.weight * head.seen(points_D3).reshape(reference.weight.shape)
    pattern_D = _locally_normalised(detail.reshape(weight.shape), weight)[reference.kept]
    return (pattern_D - pattern_D.mean()).astype(np.float32)


def align(head: Head, levels_L: Sequence[Level]) -> tuple[Doubles, Doubles]:
    """The affine map (matrix, shift in mm) from the reference to a head that brings their outlines together."""
    matrix, shift = np.eye(3), head.centre()
    for level in levels_L:
        outline = head.blurred(head.tissue, level.fwhm)
        for _ in range(STEPS):
            values_P, seen_P = _look(head, outline, level, matrix, shift)
            matrix, shift, still = _step(level, np.where(seen_P, values_P - level.values_P, 0), matrix, shift)
            if still:
                break
    return matrix, shift


def refine(head: Head, textures_L: Sequence[Level], matrix: Doubles, shift: Doubles) -> tuple[Doubles, Doubles]:
    """Align the brain's own pattern, from the outline's map and smaller ones; a pattern of the other sign (T2) does as well."""
    starts, up = [(matrix, shift)], np.array([1.0, 0, 0])
    if textures_L:
        starts = [(factor * matrix, shift + lift * up) for factor in SHRINKING for lift in LIFT_MM]
    for level in textures_L:
        texture = head.texture(level.fwhm)
        ends = [_match(head, texture, level, *start) for start in starts]
        starts = [max(ends, key=lambda end: end[0])[1]]
    return starts[0]


def _match(head: Head, texture: Floats, level: Level, matrix: Doubles, shift: Doubles) -> tuple[float, tuple[Doubles, Doubles]]:
    """The best correlation (of either sign) that some steps reach, and its map."""
    best, where = -1.0, (matrix, shift)
    for _ in range(STEPS):
        values_P, seen_P = _look(head, texture, level, matrix, shift)
        product, power = float(values_P @ (level.values_P * seen_P)), float(values_P @ values_P)
        match = abs(product) / np.sqrt(max(power, 1e-9) * float(level.values_P @ level.values_P))
        if match > best:
            best, where = match, (matrix, shift)
        residual_P = np.where(seen_P, values_P * (product / max(power, 1e-9)) - level.values_P, 0)
        matrix, shift, still = _step(level, residual_P, matrix, shift)
        if still or not 0.2 < np.linalg.det(matrix) < 5:
            break
    return best, where


def _look(head: Head, array: Floats, level: Level, matrix: Doubles, shift: Doubles) -> tuple[Doubles, Bools]:
    points_P3 = level.points_P3 @ matrix.T + shift
    seen_P = head.seen(points_P3)
    return head.sample(array, points_P3) * seen_P, seen_P


def _step(level: Level, residual_P: Doubles, matrix: Doubles, shift: Doubles) -> tuple[Doubles, Doubles, bool]:
    """One inverse compositional step, and whether it was hardly any."""
    step = level.inverse_KK @ (level.steepest_PK.T @ residual_P)
    matrix = matrix @ np.linalg.inv(np.eye(3) + step[:9].reshape(3, 3) / LEVER_MM)
    return matrix, shift - matrix @ step[9:], bool(np.abs(step).max() < STILL)


def individual(pattern_ND: Floats, contrasts: Sequence[str], people: Sequence[str], shared_D: Floats | None) -> Floats:
    """Unit vectors of what is each one's own: what people share is projected out.

    Args:
        pattern_ND: of `fingerprint`.
        contrasts: of the volumes. A contrast with at least `MIN_PEOPLE` people has a mean pattern of its own.
        people: of the volumes.
        shared_D: the reference's shared pattern, of T1.
    """
    own_ND = np.array(pattern_ND, np.float32)
    names, person = np.array(contrasts), np.array(people)
    for contrast in np.unique(names):
        rows = np.flatnonzero(names == contrast)
        first = rows[np.unique(person[rows], return_index=True)[1]]
        directions = [] if shared_D is None else [shared_D]
        if len(first) >= MIN_PEOPLE:
            directions.append(_unit(own_ND[first]).mean(axis=0))
        for direction in _orthonormal(directions):
            own_ND[rows] -= np.outer(own_ND[rows] @ direction, direction)
    return _unit(own_ND)


@cache
def load_reference() -> Reference:
    """The reference that comes with the package: the mean of 30 people."""
    with np.load(REFERENCE_FILE) as stored:
        textures_L = [texture.astype(np.float64) / 100 for texture in stored["textures"]]
        return make_reference(stored["outline"].astype(np.float64) / 255, textures_L, stored["shared"].astype(np.float32))


def make_reference(outline: Doubles, textures_L: Sequence[Doubles], shared_D: Floats | None) -> Reference:
    """A reference.

    Args:
        outline: mean outline, 0…1, on the grid of `OUTLINE_MM`.
        textures_L: mean texture at each of `TEXTURE_FWHM_MM` on the grid of `FEATURE_MM`; none: outlines alone are aligned.
        shared_D: the pattern that people share.
    """
    points_D3, shape = grid(FEATURE_MM)
    places = (points_D3 + HALF_EXTENT_MM) / OUTLINE_MM
    inside = ndimage.map_coordinates(outline, places.T, order=1, mode="constant").reshape(shape)
    weight = np.clip((inside - 0.6) / 0.3, 0, 1).astype(np.float32)
    outlines = [ndimage.gaussian_filter(outline, fwhm / 2.355 / OUTLINE_MM, mode="constant") for fwhm in LEVELS_FWHM_MM]
    everywhere = np.ones(outline.size, bool)
    levels_L = tuple(_level(o, fwhm, OUTLINE_MM, everywhere) for o, fwhm in zip(outlines, LEVELS_FWHM_MM, strict=True))
    brain = (weight > 0).reshape(-1)
    pairs = zip(textures_L, TEXTURE_FWHM_MM, strict=bool(textures_L))
    matched_L = tuple(_level(t, fwhm, FEATURE_MM, brain & _every(fwhm / 2)) for t, fwhm in pairs)
    return Reference(levels_L, matched_L, points_D3, weight, weight > 0, shared_D)


def grid(spacing: float) -> tuple[Doubles, tuple[int, ...]]:
    """The points of the reference's grid of a spacing, (P, 3), and its shape."""
    axes = [np.arange(-half, half + spacing / 2, spacing) for half in HALF_EXTENT_MM]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3), tuple(map(len, axes))


def _level(blurred: Doubles, fwhm: float, spacing: float, allowed: Bools) -> Level:
    points_P3, _ = grid(spacing)
    gradient_P3 = np.stack(list(np.gradient(blurred, spacing)), axis=-1).reshape(-1, 3)
    slope_P = np.linalg.norm(gradient_P3, axis=1)
    used = allowed & (slope_P > 0.15 * slope_P.max())
    points_P3, gradient_P3 = points_P3[used], gradient_P3[used]
    turn_P9 = (gradient_P3[:, :, None] * points_P3[:, None, :] / LEVER_MM).reshape(-1, 9)
    steepest_PK = np.concatenate([turn_P9, gradient_P3], axis=1)
    normal_KK = steepest_PK.T @ steepest_PK
    damped_KK = normal_KK + 1e-3 * np.trace(normal_KK) / len(normal_KK) * np.eye(len(normal_KK))
    return Level(fwhm, points_P3, blurred.reshape(-1)[used], steepest_PK, np.linalg.inv(damped_KK))


def _every(spacing: float) -> Bools:
    """Which points of the features' grid lie on one of about that spacing."""
    stride = max(1, round(spacing / FEATURE_MM))
    chosen = np.zeros(grid(FEATURE_MM)[1], bool)
    chosen[::stride, ::stride, ::stride] = True
    return chosen.reshape(-1)


def _ranks(voxels: NDArray[np.int16]) -> Floats:
    """Foreground intensities by their rank, 0.05…1; 0 in the background."""
    bright = voxels[voxels > 0]
    steps = (
        np.percentile(bright[:: max(1, bright.size // 50_000)], np.linspace(2, 98, RANKS)) if bright.size else np.arange(RANKS)
    )
    table = np.interp(np.arange(int(voxels.max()) + 1), steps, np.linspace(0.05, 1, RANKS)).astype(np.float32)
    table[0] = 0
    return table[voxels]


def _coarse(array: Floats, spacing: Sequence[float]) -> tuple[Floats, Doubles]:
    """Means of blocks of about `COARSE_MM`, and their spacing."""
    factors = [max(1, round(COARSE_MM / step)) for step in spacing]
    padded = np.pad(array, [(0, -n % f) for n, f in zip(array.shape, factors, strict=True)])
    z, y, x = (n // f for n, f in zip(padded.shape, factors, strict=True))
    blocks = padded.reshape(z, factors[0], y, factors[1], x, factors[2])
    return blocks.mean(axis=(1, 3, 5), dtype=np.float32), np.array(spacing, np.float64) * factors


def _locally_normalised(values: Doubles, weight: Floats) -> Doubles:
    """Minus the local mean, over the local standard deviation, times the weight."""

    def smooth(array: NDArray[np.floating[Any]]) -> Doubles:
        return ndimage.gaussian_filter(array, LOCAL_SIGMA_MM / FEATURE_MM, mode="constant")

    total = np.maximum(smooth(weight), 1e-2)
    centred = values - smooth(values * weight) / total
    spread = np.sqrt(np.maximum(smooth(centred**2 * weight) / total, 0))
    return np.clip(centred / (spread + 0.02), -CLIP, CLIP) * weight


def _unit(rows_ND: Floats) -> Floats:
    return (rows_ND / np.maximum(np.linalg.norm(rows_ND, axis=1, keepdims=True), 1e-6)).astype(np.float32)


def _orthonormal(directions: Sequence[Floats]) -> list[Floats]:
    if not directions:
        return []
    q, r = np.linalg.qr(np.stack(directions, axis=1).astype(np.float64))
    return [q[:, i].astype(np.float32) for i in range(q.shape[1]) if abs(r[i, i]) > 1e-6]
