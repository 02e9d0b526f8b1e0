"""How the one resampling pass reads a volume: the arguments of the fused resize, of the padding and of the rotation.

A rotation about the depth axis, a scale, a crop, a flip and a resize are one affine map, and reading the volume linearly
through it separates: linear along the depth, bilinear in the plane across it. So a rotated sample is resized along the depth
alone and then warped in the plane, with the slices as channels: the values of a trilinear warp in 3D, at a quarter of its cost.

Axes: z, y, x of the source; a < b the two across the depth. Voxel i covers [i, i + 1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mri_fm.data.params import SampleParams, depth_first, on_grid


@dataclass(frozen=True, eq=False)
class Reading:
    """Arguments of the geometric part of the graph, along z, y, x.

    Attributes:
        begin, end: where the resize reads from and to, float32 (3,): the part of the output whose voxels have their centre in
            the volume; to < from mirrors the axis.
        resized_shape: voxels that it makes of that, float32 (3,).
        padded: whether there are voxels of the output beyond the volume, which are 0.
        anchor: first voxel of the padded volume in the resized one, int32 (3,), 0 or less.
        padded_shape: voxels of the padded volume, int32 (3,).
        rotated: whether a, b were read whole, for the warp to read from.
        matrix: from the output's (b, a) to the source's, float32 (2, 3); pixel i has its centre at i + 0.5.
        plane: voxels of the output along a, b, float32 (2,).
    """

    begin: np.ndarray
    end: np.ndarray
    resized_shape: np.ndarray
    padded: bool
    anchor: np.ndarray
    padded_shape: np.ndarray
    rotated: bool
    matrix: np.ndarray
    plane: np.ndarray


def plan_reading(params: SampleParams, shape: Sequence[int]) -> Reading:
    """The arguments for a volume of `shape` (z, y, x)."""
    begin, end = params.roi()
    count = np.array(params.output)
    a, b = depth_first(params.depth_axis)[1:]
    matrix, plane = _plane_matrix(params, [a, b]), count[[a, b]].astype(np.float32)
    if params.rotation:
        for axis in (a, b):
            begin[axis], end[axis], count[axis] = 0, shape[axis], shape[axis]
    inside = [_inside(begin[i], end[i], count[i], shape[i]) for i in range(3)]
    first, last = np.array([i.start for i in inside]), np.array([i.stop for i in inside])
    step = (end - begin) / count
    return Reading(
        begin=np.where(first > 0, begin + first * step, begin).astype(np.float32),
        end=np.where(last < count, begin + last * step, end).astype(np.float32),
        resized_shape=(last - first).astype(np.float32),
        padded=bool(((last - first) < count).any()),
        anchor=(-first).astype(np.int32),
        padded_shape=count.astype(np.int32),
        rotated=params.rotation != 0,
        matrix=matrix,
        plane=plane,
    )


def _inside(begin: float, end: float, count: int, length: int) -> range:
    """The samples, of `count` at the centres of equal parts of [begin, end), that lie in a volume of `length` voxels."""
    centres = begin + (np.arange(count) + 0.5) * ((float(end) - float(begin)) / count)
    (inside,) = np.nonzero((centres >= 0) & (centres <= length))
    return range(int(inside[0]), int(inside[-1]) + 1)


def _plane_matrix(params: SampleParams, axes: list[int]) -> np.ndarray:
    """Output (b, a) → source (b, a), float32 (2, 3): a rigid rotation in millimetres about the centre of the crop."""
    begin, end = (edge[axes].astype(np.float64) for edge in params.roi())
    count, spacing = np.array(params.output)[axes], np.array(params.spacing)[axes]
    cosine, sine = math.cos(params.rotation), math.sin(params.rotation)
    linear = on_grid(np.array([[cosine, -sine], [sine, cosine]]) * spacing / spacing[:, None] * ((end - begin) / count))
    offset = on_grid((begin + end) / 2 - linear @ (count / 2))
    return np.ascontiguousarray(np.column_stack([linear, offset])[::-1, [1, 0, 2]], dtype=np.float32)
