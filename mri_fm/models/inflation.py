"""Weights of an image or video transformer, carried over to volumes.

Axes: D width, C channels, Z/Y/X voxels of a patch, N tokens in raster order.
"""

from __future__ import annotations

from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from mri_fm.models.patches import Size3


def inflate_kernel(kernel: Tensor, channels: int, patch: Size3) -> Tensor:
    """A patch embedding for volumes out of one for images or videos, in float64.

    The channels of a colour kernel are summed, which embeds a grey image as the same image in each of them. Along each axis
    the kernel is resized by the pseudo-inverse of linear interpolation: of all kernels it is the one that embeds resized
    patches closest to how the given one embeds the patches themselves, and exactly so where none gets smaller (Beyer et al.,
    FlexiViT, CVPR 2023, §3.4). An image is a video of one frame, so that its kernel is repeated along the depth and divided
    by the repetitions (Carreira & Zisserman, CVPR 2017, §2.4.1; Arnab et al., ViViT, ICCV 2021, §3.4): volumes that are
    constant along the depth are embedded as the image is.

    Args:
        kernel: (D, C', Y', X') or (D, C', Z', Y', X').
        channels: C, of the volumes: 1, or C' itself.
        patch: voxels of a patch along z, y, x.

    Returns:
        (D, C, Z, Y, X).

    Raises:
        ValueError: other axes, or channels that are neither summed nor kept.
    """
    if kernel.ndim not in (4, 5):
        raise ValueError(f"a kernel of shape {tuple(kernel.shape)} is of no image and of no video")
    inflated = kernel.double() if kernel.ndim == 5 else kernel.double().unsqueeze(2)
    if channels != inflated.shape[1]:
        if channels != 1:
            raise ValueError(f"a kernel of {inflated.shape[1]} channels does not become one of {channels}")
        inflated = inflated.sum(dim=1, keepdim=True)
    for axis, size in enumerate(patch, start=2):
        if size != inflated.shape[axis]:
            resize = torch.linalg.pinv(_interpolation(inflated.shape[axis], size).T)
            inflated = (resize @ inflated.movedim(axis, -2)).movedim(-2, axis) if axis < 4 else inflated @ resize.T
    return inflated


def resize_positions(table_ND: Tensor, grid: Size3, wanted: Size3) -> Tensor:
    """A table of positions on another grid of the same field of view, trilinear between patch centres; float32 (N', D).

    Raises:
        ValueError: the table is not of `grid`.
    """
    if len(table_ND) != prod(grid):
        raise ValueError(f"a table of {len(table_ND)} positions is not one of a grid of {grid}")
    table_1DZYX = table_ND.float().T.unflatten(1, grid)[None]
    return F.interpolate(table_1DZYX, size=wanted, mode="trilinear", align_corners=False)[0].flatten(1).T


def _interpolation(old: int, new: int) -> Tensor:
    """The matrix (new, old) that resizes a signal linearly, with a low-pass filter where it gets smaller; float64."""
    identity = torch.eye(old, dtype=torch.float64)[None, None]
    return F.interpolate(identity, size=(new, old), mode="bilinear", align_corners=False, antialias=True)[0, 0]
