"""How the one resampling pass reads a volume: the arguments of the fused resize, of the padding and of the rotation.

A rotation about the depth axis, a scale, a crop, a flip and a resize are one affine map, and reading the volume linearly
through it separates: linear along the depth, bilinear in the plane across it. So a rotated sample is resized along the depth
alone and then warped in the plane, with the slices as channels: the values of a trilinear warp in 3D, at a quarter of its cost.
DALI's resize makes a pass along every axis that it is told of, also where it only copies. For the depth alone the volume is
therefore viewed as frames that have the depth as rows or columns: the same values in less than half the time.

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
        view: the volume as frames, rows, columns, channels, int32 (4,): no copy, and the depth is its rows or its columns.
        view_begin, view_end, view_shape: begin, end, resized_shape of the view's rows and columns, float32 (2,); only for a
            rotated sample, which is read along the depth alone.
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
    view: np.ndarray
    view_begin: np.ndarray
    view_end: np.ndarray
    view_shape: np.ndarray
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
    step, resized_shape = (end - begin) / count, last - first
    begin, end = np.where(first > 0, begin + first * step, begin), np.where(last < count, begin + last * step, end)
    depth = (edge[params.depth_axis] for edge in (begin, end, resized_shape))
    view, view_begin, view_end, view_shape = _depth_view(params.depth_axis, shape, *depth)
    return Reading(
        begin=begin.astype(np.float32),
        end=end.astype(np.float32),
        resized_shape=resized_shape.astype(np.float32),
        padded=bool((resized_shape < count).any()),
        anchor=(-first).astype(np.int32),
        padded_shape=count.astype(np.int32),
        rotated=params.rotation != 0,
        view=view,
        view_begin=view_begin,
        view_end=view_end,
        view_shape=view_shape,
        matrix=matrix,
        plane=plane,
    )


def _depth_view(depth_axis: int, shape: Sequence[int], begin: float, end: float, count: float) -> tuple[np.ndarray, ...]:
    """The view, and begin, end and shape of what is read of its rows and columns, for a reading of the depth."""
    z, y, x = shape
    if depth_axis == 2:  # contiguous: columns
        view, pairs = (1, z * y, x, 1), [(0.0, begin), (z * y, end), (z * y, count)]
    else:
        view, pairs = (1, z, 1, y * x) if depth_axis == 0 else (z, y, 1, x), [(begin, 0.0), (end, 1), (count, 1)]
    return np.array(view, dtype=np.int32), *(np.array(pair, dtype=np.float32) for pair in pairs)


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
