"""Volumes as sequences of patches, and where each patch lies.

Axes: B batch, C channels, Z/Y/X voxels, N tokens in raster order, K any choice of them, P values of one patch (C·pz·py·px),
D width.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

Size3 = tuple[int, int, int]


def patch_grid(size: Size3, patch: Size3) -> Size3:
    """Patches along z, y, x.

    Raises:
        ValueError: the patch does not divide the size.
    """
    if any(s <= 0 or p <= 0 or s % p for s, p in zip(size, patch, strict=True)):
        raise ValueError(f"a volume of {size} voxels does not divide into patches of {patch}")
    return size[0] // patch[0], size[1] // patch[1], size[2] // patch[2]


def patchify(x_BCZYX: Tensor, patch: Size3) -> Tensor:
    """Cut volumes into patches: (B, C, Z, Y, X) → (B, N, P), N in raster order, P ordered channel, z, y, x.

    Raises:
        ValueError: the patch does not divide the volume.
    """
    b, c, z, y, x = x_BCZYX.shape
    gz, gy, gx = patch_grid((z, y, x), patch)
    pz, py, px = patch
    blocks = x_BCZYX.reshape(b, c, gz, pz, gy, py, gx, px)
    return blocks.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(b, gz * gy * gx, c * pz * py * px)


def unpatchify(patches_BNP: Tensor, patch: Size3, size: Size3) -> Tensor:
    """The exact inverse of `patchify`: (B, N, P) → (B, C, Z, Y, X) of `size` = (Z, Y, X)."""
    b = patches_BNP.shape[0]
    gz, gy, gx = patch_grid(size, patch)
    pz, py, px = patch
    blocks = patches_BNP.reshape(b, gz, gy, gx, -1, pz, py, px)
    return blocks.permute(0, 4, 1, 5, 2, 6, 3, 7).reshape(b, -1, *size)


def take_tokens(tokens_BND: Tensor, index_BK: Tensor) -> Tensor:
    """The tokens at `index_BK` (int64) of each sample: (B, N, D) → (B, K, D)."""
    return tokens_BND.gather(1, index_BK[:, :, None].expand(-1, -1, tokens_BND.shape[2]))


def sincos_positions(width: int, grid: Size3) -> Tensor:
    """Fixed 3D sine-cosine position table, float32 (N, D), computed in float64.

    Each axis has sines and cosines of its patch index at frequencies 10000^(-k/K), k < K = ceil(D/6) (Vaswani et al., 2017,
    §3.5, once per axis). Where 6 does not divide the width, the lowest frequencies of the last axis are cut off.
    """
    frequencies = -(-width // 6)
    omega_K = 10000.0 ** (-np.arange(frequencies, dtype=np.float64) / frequencies)
    axes = np.meshgrid(*(np.arange(n, dtype=np.float64) for n in grid), indexing="ij")
    waves = []
    for axis in axes:
        phase_NK = axis.reshape(-1, 1) * omega_K
        waves.append(np.stack([np.sin(phase_NK), np.cos(phase_NK)], axis=2).reshape(len(phase_NK), -1))
    # NumPy, since deepspeed.zero.Init makes torch's constructors round to the dtype of the weights.
    return torch.from_numpy(np.concatenate(waves, axis=1)[:, :width].astype(np.float32))
