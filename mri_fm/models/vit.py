"""The encoder: a 3D vision transformer without a class token.

Axes: B batch, C channels, Z/Y/X voxels, N tokens, V visible tokens, T = N or V, R registers, P values of
one patch, D width, L layers, 2 branches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mri_fm.model_config import ModelConfig
from mri_fm.models.layers import LN_EPS, PLAIN, BlockOptions, block_stack, drop_path_gates, run_blocks
from mri_fm.models.mlp import INIT_STD, Linear
from mri_fm.models.moe import Experts
from mri_fm.models.patches import Size3, patch_grid, patchify, take_tokens
from mri_fm.models.positions import Rope, positions


def as_size3(values: Sequence[int]) -> Size3:
    """Three numbers along z, y, x as a tuple."""
    z, y, x = values
    return z, y, x


class PatchEmbedding(Linear):
    """The convolution with kernel = stride = patch, written as the matrix product it is: (B, T, P) → (B, T, D)."""

    def forward(self, input: Tensor) -> Tensor:
        """Embed patches of any floating dtype."""
        return F.linear(input.to(self.weight.dtype), self.weight, self.bias)


class VisionTransformer(nn.Module):
    """Patches → embedding with positions → pre-LN blocks → LayerNorm.

    Attributes:
        size, patch, grid: voxels of the input, voxels of a patch, patches of the input along z, y, x. Volumes of another size
            are encoded too; positions count in patches of this one (`mri_fm.models.positions`).
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
        *,
        options: BlockOptions = PLAIN,
        rope: Rope | None = None,
        learned_positions: bool = False,
        registers: int = 0,
        drop_path: float = 0.0,
        seed: int = 0,
    ) -> None:
        """Build with random weights.

        Args:
            size: voxels of a volume along z, y, x.
            patch: voxels of a patch along z, y, x.
            width: D.
            depth: number of blocks.
            heads: attention heads.
            mlp_ratio: hidden width of the MLP over D, as for a GELU.
            in_channels: C.
            options: what the blocks are made of.
            rope: rotary positions; None: a table of positions, added once.
            learned_positions: whether that table is learned rather than one of sines and cosines.
            registers: learned tokens beside the others, dropped from the output (Darcet et al., ICLR 2024).
            drop_path: see `drop_path_gates`.
            seed: keys the paths that are dropped.

        Raises:
            ValueError: the patch does not divide the size, or the heads the width.
        """
        super().__init__()
        self.size, self.patch, self.width, self.in_channels = size, patch, width, in_channels
        self.grid = patch_grid(size, patch)
        self.num_tokens = self.grid[0] * self.grid[1] * self.grid[2]
        self.registers, self.drop_path, self.seed = registers, drop_path, seed
        self.embedding = PatchEmbedding(in_channels * patch[0] * patch[1] * patch[2], width)
        self.position = positions(width, heads, self.grid, patch, rope, learned=learned_positions)
        self.register_token: nn.Parameter | None = None
        if registers:
            self.register_token = nn.Parameter(torch.zeros(registers, width))
            nn.init.trunc_normal_(self.register_token, std=INIT_STD, a=-2 * INIT_STD, b=2 * INIT_STD)
        self.blocks = block_stack(width, depth, heads, mlp_ratio, options)
        self.norm = nn.LayerNorm(width, eps=LN_EPS)

    @classmethod
    def from_config(cls, model: ModelConfig, size: Size3, in_channels: int = 1, seed: int = 0) -> Self:
        """The encoder that `model` describes, for volumes of `size` voxels along z, y, x; `seed` keys its drop path."""
        return cls(
            size,
            as_size3(model.patch),
            model.width,
            model.depth,
            model.heads,
            model.mlp_ratio,
            in_channels,
            options=replace(BlockOptions.from_config(model), experts=Experts.from_config(model)),
            rope=Rope.from_config(model),
            learned_positions=model.position == "learned",
            registers=model.registers,
            drop_path=model.drop_path,
            seed=seed,
        )

    def forward(
        self,
        x_BCZYX: Tensor,
        visible_BV: Tensor | None = None,
        *,
        positions_B: Tensor | None = None,
        spacing_B3: Tensor | None = None,
    ) -> Tensor:
        """Encode volumes.

        Args:
            x_BCZYX: z-scored volumes of any floating dtype and any size that divides into patches.
            visible_BV: int64 indices of the tokens to keep; the others cost nothing. None keeps all, in raster order.
            positions_B: int64, global sample positions, which say what drop path leaves out in training.
            spacing_B3: mm between voxels along z, y, x of each volume; needed by rotary positions that count in them alone.

        Returns:
            tokens (B, V, D) or (B, N, D).

        Raises:
            ValueError: another number of channels, a size that does not divide into patches, drop path in training without
                `positions_B`, or no spacing where positions need it.
        """
        batch, channels, *size = x_BCZYX.shape
        if channels != self.in_channels:
            raise ValueError(f"volumes of {channels} channels given to an encoder for {self.in_channels}")
        patches_BTP = patchify(x_BCZYX, self.patch)
        if visible_BV is not None:
            patches_BTP = take_tokens(patches_BTP, visible_BV)
        grid = patch_grid(as_size3(size), self.patch)
        tokens_BTD, rotation = self.position(self.embedding(patches_BTP), visible_BV, grid, spacing_B3)
        if self.register_token is not None:
            register_BRD = self.register_token.to(tokens_BTD.dtype).expand(batch, -1, -1)
            tokens_BTD = torch.cat([register_BRD, tokens_BTD], dim=1)
            rotation = None if rotation is None else rotation.with_registers(self.registers)
        tokens_BTD = run_blocks(self.blocks, tokens_BTD, rotation, self._gates(positions_B))
        return self.norm(tokens_BTD[:, self.registers :])

    def _gates(self, positions_B: Tensor | None) -> Tensor | None:
        if not (self.training and self.drop_path):
            return None
        if positions_B is None:
            raise ValueError("drop path is drawn from the samples' global positions: give positions_B, or call eval() first")
        return drop_path_gates(self.drop_path, len(self.blocks), seed=self.seed, positions_B=positions_B)
