"""The plain-torch twin of the DALI graph: one volume, the same parameters, the same arithmetic, no batching.

Axes: Z, Y, X source voxels (RAS+); D, H, W depth, height, width of the output.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mri_fm.data.geometry import Reading, plan_reading
from mri_fm.data.params import SampleParams, blur_window, intensity_gain

_LEAST_DEVIATION = 1e-6
_FOREGROUND = 0.5


class Augmented(NamedTuple):
    """One input before the voxel noise.

    Attributes:
        x_DHW: float32, z-scored.
        foreground_DHW: bool, where the geometry puts stored foreground; no change of intensity moves it.
        air: the level in x_DHW of intensity 0.
    """

    x_DHW: Tensor
    foreground_DHW: Tensor
    air: float


def augment_volume(
    voxels_ZYX: np.ndarray,
    params: SampleParams,
    window: tuple[float, float],
    size: Sequence[int],
    statistics: str = "foreground",
) -> Augmented:
    """What the DALI graph makes of a payload, before the voxel noise.

    Args:
        voxels_ZYX: int16 payload, 0 is background.
        params: crop, orientation, flip, gamma and bias field.
        window: percentiles to clip to, stored units.
        size: voxels of the output along depth, height, width.
        statistics: z-score over the "foreground" or the whole "volume".
    """
    resized_ZYX = resample(torch.from_numpy(voxels_ZYX.astype(np.float32)), params)
    volume_DHW = resized_ZYX.movedim(params.depth_axis, 0)
    scaled_DHW = ((volume_DHW - window[0]) * intensity_gain(window)).clamp(0.0, 1.0)
    shaded_DHW = scaled_DHW.pow(params.gamma) * bias_field(params.bias, size)
    if params.blur > 0:
        shaded_DHW = blur(shaded_DHW, params)
    foreground_DHW = volume_DHW > _FOREGROUND
    values = shaded_DHW if statistics == "volume" else shaded_DHW[foreground_DHW]
    if values.numel() == 0:
        return Augmented(torch.zeros_like(shaded_DHW), foreground_DHW, 0.0)
    mean, deviation = values.mean(), values.std(correction=0).clamp(min=_LEAST_DEVIATION)
    return Augmented(((shaded_DHW - mean) / deviation).contiguous(), foreground_DHW.contiguous(), float(-mean / deviation))


def resample(volume_ZYX: Tensor, params: SampleParams) -> Tensor:
    """Crop, flip, scale, resize and rotate in one: linear along each axis, 0 beyond the volume."""
    reading = plan_reading(params, volume_ZYX.shape)
    for axis in range(3):
        begin, end = float(reading.begin[axis]), float(reading.end[axis])
        volume_ZYX = _resample_axis(volume_ZYX, axis, begin, end, int(reading.resized_shape[axis]))
    before, after = -reading.anchor, reading.padded_shape + reading.anchor - reading.resized_shape.astype(int)
    volume_ZYX = functional.pad(volume_ZYX, [int(n) for pair in zip(before[::-1], after[::-1], strict=True) for n in pair])
    if not reading.rotated:
        return volume_ZYX
    return _warp_plane(volume_ZYX.movedim(params.depth_axis, 2), reading).movedim(2, params.depth_axis)


def blur(volume_DHW: Tensor, params: SampleParams) -> Tensor:
    """Gaussian blur, mirrored at the borders without repeating the outermost voxel."""
    deviations = params.blur_voxels()
    for axis, (deviation, taps) in enumerate(zip(deviations, blur_window(deviations), strict=True)):
        offsets = torch.arange(taps) - taps // 2
        kernel = torch.exp(-(offsets**2) / (2 * deviation**2))
        length = volume_DHW.shape[axis]
        mirror = (torch.arange(length)[:, None] + offsets) % max(2 * (length - 1), 1)
        index = torch.minimum(mirror, (2 * (length - 1) - mirror).abs())
        windows = volume_DHW.index_select(axis, index.flatten()).unflatten(axis, index.shape)
        volume_DHW = torch.tensordot(windows, kernel / kernel.sum(), dims=([axis + 1], [0]))
    return volume_DHW


def bias_field(points: np.ndarray, size: Sequence[int]) -> Tensor:
    """exp of the control points, linearly interpolated to float32 (depth, height, width)."""
    log_field = functional.interpolate(torch.from_numpy(points)[None, None], size=tuple(size), mode="trilinear")
    return log_field[0, 0].exp()


def _resample_axis(volume_ZYX: Tensor, axis: int, begin: float, end: float, count: int) -> Tensor:
    """`count` samples at the centres of equal parts of [begin, end); voxel i covers [i, i + 1)."""
    length = volume_ZYX.shape[axis]
    step = torch.tensor((end - begin) / count, dtype=torch.float32)  # in float32 and in this order, as DALI does
    centres = (torch.arange(count) * step + (0.5 * step + begin - 0.5)).clamp(0, length - 1)
    lower = centres.floor().long()
    upper = (lower + 1).clamp(max=length - 1)
    weight_shape = [-1 if a == axis else 1 for a in range(3)]
    weight = (centres - lower).view(weight_shape)
    return volume_ZYX.index_select(axis, lower) * (1 - weight) + volume_ZYX.index_select(axis, upper) * weight


def _warp_plane(volume_ABC: Tensor, reading: Reading) -> Tensor:
    """Bilinear in the plane (a, b), 0 outside."""
    height, width = map(int, reading.plane)
    a, b = torch.arange(height)[:, None] + 0.5, torch.arange(width) + 0.5
    b_AB, a_AB = (float(by_b) * b + float(by_a) * a + float(offset) - 0.5 for by_b, by_a, offset in reading.matrix)
    corners = [
        _pick(volume_ABC, a_AB.floor() + da, b_AB.floor() + db) * (_share(a_AB, da) * _share(b_AB, db))[..., None]
        for da in (0, 1)
        for db in (0, 1)
    ]
    return corners[0] + corners[1] + corners[2] + corners[3]


def _share(position: Tensor, corner: int) -> Tensor:
    fraction = position - position.floor()
    return fraction if corner else 1 - fraction


def _pick(volume_ABC: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """The voxels at (a, b), 0 where there are none."""
    height, width = volume_ABC.shape[:2]
    exists = (a >= 0) & (a < height) & (b >= 0) & (b < width)
    return volume_ABC[a.clamp(0, height - 1).long(), b.clamp(0, width - 1).long()] * exists[..., None]
