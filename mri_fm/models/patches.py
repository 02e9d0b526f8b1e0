"""Volumes as sequences of patches.

Axes: B batch, C channels, Z/Y/X voxels, N tokens in raster order, K any choice of them, P values of one patch (C·pz·py·px),
D width.
"""

from __future__ import annotations

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
