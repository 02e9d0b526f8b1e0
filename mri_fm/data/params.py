"""The random parameters of one sample, drawn on the host and handed to DALI or to the torch twin as arguments.

Axes: source arrays are z, y, x of RAS+ (x is left-right); the output is depth, height, width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mri_fm.config import AugmentConfig
from mri_fm.rng import Stream, generator

NEARLY_ISOTROPIC = 1.4
BIAS_POINTS = 4
GRID = 2.0**-12  # voxels; ten bits are left for the coordinate itself and two for halves
_Z, _X = 0, 2


@dataclass(frozen=True, eq=False)
class SampleParams:
    """How one volume becomes one input.

    Attributes:
        depth_axis: source axis (0 z, 1 y, 2 x) that becomes the depth; the other two keep their order.
        start: first voxel of the crop along z, y, x.
        extent: voxels of the crop along z, y, x: everything along the depth, a square across it.
        output: voxels along z, y, x after the resize, before the depth axis moves to the front.
        flip_x: mirror left and right.
        gamma: exponent on intensities in [0, 1].
        bias: control points of the log bias field over the output, float32 (4, 4, 4).
        noise: standard deviation of the voxel noise, in units of the z-scored volume.
        spacing: mm between the source's voxels along z, y, x.
        scale: how much larger the anatomy becomes, alike in millimetres along all axes: the crop shrinks by it.
        rotation: angle in radians about the depth axis and the centre of the crop, a rigid one in millimetres; 0: none.
        blur: standard deviation of a Gaussian blur, mm; 0: none.
    """

    depth_axis: int
    start: tuple[int, int, int]
    extent: tuple[int, int, int]
    output: tuple[int, int, int]
    flip_x: bool
    gamma: float
    bias: np.ndarray
    noise: float
    spacing: tuple[float, float, float]
    scale: float = 1.0
    rotation: float = 0.0
    blur: float = 0.0

    @property
    def size(self) -> tuple[int, int, int]:
        """Voxels along depth, height, width."""
        height, width = (length for axis, length in enumerate(self.output) if axis != self.depth_axis)
        return self.output[self.depth_axis], height, width

    def step(self) -> np.ndarray:
        """Voxels of the source from one voxel of the output to the next along z, y, x, float64 (3,)."""
        step = np.divide(self.extent, self.output)
        return step if self.scale == 1 else on_grid(step / self.scale)

    def roi(self) -> tuple[np.ndarray, np.ndarray]:
        """What is shown along z, y, x but for a rotation: from and to, float32 (3,) each; to < from mirrors the axis."""
        centre, half = np.add(self.start, np.divide(self.extent, 2)), self.step() * self.output / 2
        begin, end = (centre - half).astype(np.float32), (centre + half).astype(np.float32)
        if self.flip_x:
            begin[_X], end[_X] = end[_X], begin[_X]
        return begin, end

    def input_spacing(self) -> np.ndarray:
        """Millimetres between voxels of the output along depth, height, width, float32 (3,)."""
        return (self.step() * self.spacing)[depth_first(self.depth_axis)].astype(np.float32)

    def blur_voxels(self) -> np.ndarray:
        """The blur along depth, height, width in voxels of the output, float32 (3,)."""
        return (self.blur / self.input_spacing()).astype(np.float32)


def on_grid(voxels: np.ndarray) -> np.ndarray:
    """Rounded so that coordinates made of it are exact in float32: CPU, GPU and twin then read at the very same places."""
    return np.round(voxels / GRID) * GRID


def depth_first(depth_axis: int) -> list[int]:
    """The source axes in the order of the output: depth, height, width."""
    return [depth_axis, *(axis for axis in range(3) if axis != depth_axis)]


def draw_params(
    sample_shape: Sequence[int],
    size: Sequence[int],
    augment: AugmentConfig,
    *,
    seed: int,
    position: int,
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
) -> SampleParams:
    """The parameters of the sample at a global position, for training.

    A volume whose longest axis is under 1.4 times its shortest (in voxels) gets one of three depth axes; a thick-slice one
    keeps its native plane. Every number is drawn whether or not it is used, so that switching one part of the augmentation
    off leaves the others as they were.

    Args:
        sample_shape: voxels along z, y, x.
        size: voxels of the output along depth, height, width.
        augment: the ranges.
        seed: the run's seed.
        position: global sample position.
        spacing: mm between voxels along z, y, x.
    """
    rng = generator(seed, Stream.AUGMENT, position)
    any_axis, place, flip = int(rng.integers(3)), rng.random(), rng.random()
    log_gamma, noise = rng.uniform(-1.0, 1.0), rng.random()
    points = rng.standard_normal((BIAS_POINTS,) * 3, dtype=np.float32)
    scale, angle, blur = rng.uniform(-1.0, 1.0), rng.uniform(-1.0, 1.0), rng.random()
    rotates, blurs = rng.random(), rng.random()
    depth_axis = any_axis if augment.orientation and _nearly_isotropic(sample_shape) else _native_depth(sample_shape)
    start, extent = _square_crop(sample_shape, depth_axis, place)
    return SampleParams(
        depth_axis=depth_axis,
        start=start,
        extent=extent,
        output=_source_order(size, depth_axis),
        flip_x=flip < augment.flip,
        gamma=math.exp(augment.gamma * log_gamma),
        bias=points * np.float32(augment.bias),
        noise=augment.noise * noise,
        spacing=_three(spacing),
        scale=1.0 + augment.scale * scale,
        rotation=math.radians(augment.rotation * angle) if rotates < augment.rotation_probability else 0.0,
        blur=augment.blur * blur if blurs < augment.blur_probability else 0.0,
    )


def centre_params(
    sample_shape: Sequence[int],
    size: Sequence[int],
    *,
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    plane: str = "shape",
    crop: str = "centre",
) -> SampleParams:
    """The parameters for evaluation: native depth axis, no augmentation.

    Args:
        sample_shape, size, spacing: as in `draw_params`.
        plane: the depth axis is that of thick slices, else axial ("spacing"; 1.4 times the finest spacing is thick), or the
            shortest where it is much shorter than the longest, else axial ("shape"; the published rule, by which a head
            scanned at 1 mm is sagittal or axial, depending on how much neck the scan holds).
        crop: the "centre" square across the depth, or the "whole" volume, whose proportions in plane are then lost.
    """
    depth_axis = _thick_axis(spacing) if plane == "spacing" else _native_depth(sample_shape)
    start, extent = _square_crop(sample_shape, depth_axis, 0.5)
    if crop == "whole":
        start, extent = (0, 0, 0), (sample_shape[0], sample_shape[1], sample_shape[2])
    output = _source_order(size, depth_axis)
    flat = np.zeros((BIAS_POINTS,) * 3, dtype=np.float32)
    return SampleParams(
        depth_axis, start, extent, output, flip_x=False, gamma=1.0, bias=flat, noise=0.0, spacing=_three(spacing)
    )


def blur_window(deviation: np.ndarray) -> np.ndarray:
    """Taps of the Gaussian kernel along each axis, int32: three standard deviations (in voxels) to either side."""
    return (2 * np.ceil(3 * deviation) + 1).astype(np.int32)


def intensity_gain(window: tuple[float, float]) -> float:
    """What maps the window to [0, 1]; 0 if it is under one stored unit wide, so that a constant volume stays constant."""
    width = window[1] - window[0]
    return 1.0 / width if width >= 1.0 else 0.0


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    z, y, x = map(float, values)
    return z, y, x


def _nearly_isotropic(shape: Sequence[int]) -> bool:
    return max(shape) / min(shape) < NEARLY_ISOTROPIC


def _thick_axis(spacing: Sequence[float]) -> int:
    """Axial where the voxels are nearly cubes, else the axis along which they lie furthest apart."""
    return _Z if max(spacing) / min(spacing) < NEARLY_ISOTROPIC else int(np.argmax(spacing))


def _native_depth(shape: Sequence[int]) -> int:
    """Axial where no axis stands out, else the shortest axis."""
    return _Z if _nearly_isotropic(shape) else int(np.argmin(shape))


def _square_crop(shape: Sequence[int], depth_axis: int, place: float) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Start and extent along z, y, x; `place` in [0, 1) positions the square along the longer in-plane axis."""
    side = min(length for axis, length in enumerate(shape) if axis != depth_axis)
    extent = [length if axis == depth_axis else side for axis, length in enumerate(shape)]
    start = [int(place * (length - kept + 1)) for length, kept in zip(shape, extent, strict=True)]
    return (start[0], start[1], start[2]), (extent[0], extent[1], extent[2])


def _source_order(size: Sequence[int], depth_axis: int) -> tuple[int, int, int]:
    """Depth, height, width rearranged to the source axes they come from."""
    order = list(size[1:])
    order.insert(depth_axis, size[0])
    return order[0], order[1], order[2]
