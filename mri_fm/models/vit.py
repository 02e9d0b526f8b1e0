"""The encoder: a 3D vision transformer without a class token.

Axes: B batch, C channels, Z/Y/X voxels, N tokens, V visible tokens, T = N or V, P values of one patch, D width.
"""

from __future__ import annotations

from typing import Self

import torch.nn.functional as F
from torch import Tensor, nn

from mri_fm.config import ModelConfig
from mri_fm.models.layers import LN_EPS, Linear, block_stack
from mri_fm.models.patches import Size3, patch_grid, patchify, sincos_positions, take_tokens


def as_size3(values: list[int]) -> Size3:
    """Three numbers along z, y, x as a tuple."""
    z, y, x = values
    return z, y, x


class PatchEmbedding(Linear):
    """The convolution with kernel = stride = patch, written as the matrix product it is: (B, T, P) → (B, T, D)."""

    def forward(self, input: Tensor) -> Tensor:
        """Embed patches of any floating dtype."""
        return F.linear(input.to(self.weight.dtype), self.weight, self.bias)


class VisionTransformer(nn.Module):
    """Patches → embedding + fixed 3D sine-cosine positions → pre-LN blocks → LayerNorm.

    Attributes:
        size, patch, grid: voxels of the input, voxels of a patch, patches of the input along z, y, x.
        width: D.
        num_tokens: N = prod(grid).
        in_channels: C.
    """

    def __init__(
        self,
        size: Size3,
        patch: Size3,
        width: int,
        depth: int,
        heads: int,
        mlp_ratio: float = 4.0,
        in_channels: int = 1,
    ) -> None:
        """Build with random weights.

        Raises:
            ValueError: the patch does not divide the size, or the heads the width.
        """
        super().__init__()
        self.size, self.patch, self.width, self.in_channels = size, patch, width, in_channels
        self.grid = patch_grid(size, patch)
        self.num_tokens = self.grid[0] * self.grid[1] * self.grid[2]
        self.embedding = PatchEmbedding(in_channels * patch[0] * patch[1] * patch[2], width)
        self.register_buffer("position_ND", sincos_positions(width, self.grid), persistent=False)
        self.position_ND: Tensor
        self.blocks = block_stack(width, depth, heads, mlp_ratio)
        self.norm = nn.LayerNorm(width, eps=LN_EPS)

    @classmethod
    def from_config(cls, model: ModelConfig, size: Size3, in_channels: int = 1) -> Self:
        """The encoder that `model` describes, for volumes of `size` voxels along z, y, x."""
        return cls(size, as_size3(model.patch), model.width, model.depth, model.heads, model.mlp_ratio, in_channels)

    def forward(self, x_BCZYX: Tensor, visible_BV: Tensor | None = None) -> Tensor:
        """Encode volumes.

        Args:
            x_BCZYX: z-scored volumes of any floating dtype.
            visible_BV: int64 indices of the tokens to keep; the others cost nothing. None keeps all, in raster order.

        Returns:
            tokens (B, V, D) or (B, N, D).

        Raises:
            ValueError: the volumes have another size or number of channels than this encoder.
        """
        if tuple(x_BCZYX.shape[1:]) != (self.in_channels, *self.size):
            raise ValueError(f"volumes of {tuple(x_BCZYX.shape[1:])} given to an encoder for {(self.in_channels, *self.size)}")
        patches_BTP, position = patchify(x_BCZYX, self.patch), self.position_ND
        if visible_BV is not None:
            patches_BTP, position = take_tokens(patches_BTP, visible_BV), self.position_ND[visible_BV]
        tokens_BTD = self.embedding(patches_BTP)
        tokens_BTD = tokens_BTD + position.to(tokens_BTD.dtype)
        for block in self.blocks:
            tokens_BTD = block(tokens_BTD)
        return self.norm(tokens_BTD)
