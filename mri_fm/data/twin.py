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

from mri_fm.data.params import SampleParams, intensity_gain

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
    foreground_DHW = volume_DHW > _FOREGROUND
    values = shaded_DHW if statistics == "volume" else shaded_DHW[foreground_DHW]
    if values.numel() == 0:
        return Augmented(torch.zeros_like(shaded_DHW), foreground_DHW, 0.0)
    mean, deviation = values.mean(), values.std(correction=0).clamp(min=_LEAST_DEVIATION)
    return Augmented(((shaded_DHW - mean) / deviation).contiguous(), foreground_DHW.contiguous(), float(-mean / deviation))


def resample(volume_ZYX: Tensor, params: SampleParams) -> Tensor:
    """Crop, flip and resize in one: linear along each axis, reading past the crop but not past the volume."""
    begin, end = params.roi()
    for axis in range(3):
        volume_ZYX = _resample_axis(volume_ZYX, axis, float(begin[axis]), float(end[axis]), params.output[axis])
    return volume_ZYX


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
    return torch.lerp(volume_ZYX.index_select(axis, lower), volume_ZYX.index_select(axis, upper), weight)
