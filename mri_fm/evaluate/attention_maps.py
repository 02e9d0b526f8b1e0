"""Where a token of the frozen encoder looks, and which tokens have features like its own.

Beyond `MAX_CELLS` tokens neighbours are joined to cells: of a cell's queries the mean is taken, over a cell's keys the sum, so
that rows still sum to 1.

Axes: C channels, Z/Y/X voxels, N tokens, T = R registers and N tokens, M cells, W = R + M, L layers, H heads, E head width,
D width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mri_fm.models.patches import Size3
from mri_fm.models.vit import VisionTransformer
from mri_fm.observe.attention import WatchedAttention

MAX_CELLS = 512


@dataclass(frozen=True, eq=False)
class Cells:
    """Boxes of tokens.

    Attributes:
        grid: cells along the input's axes.
        cell_N: the cell of each token; cells and tokens are in raster order.
    """

    grid: Size3
    cell_N: Tensor

    @classmethod
    def of_grid(cls, grid: Size3, patch: Size3, most: int = MAX_CELLS) -> Cells:
        """As fine as `most` allows: the axis along which cells are shortest (in voxels) is halved until they are few enough."""
        factor = [1, 1, 1]
        cells = list(grid)
        while math.prod(cells) > most:
            axis = min((a for a in range(3) if cells[a] > 1), key=lambda a: (factor[a] * patch[a], -cells[a]))
            factor[axis] *= 2
            cells[axis] = math.ceil(grid[axis] / factor[axis])
        along = [torch.arange(n) // f for n, f in zip(grid, factor, strict=True)]
        cell_ZYX = (along[0][:, None, None] * cells[1] + along[1][:, None]) * cells[2] + along[2]
        return cls((cells[0], cells[1], cells[2]), cell_ZYX.flatten())

    @property
    def count(self) -> int:
        """M."""
        return math.prod(self.grid)

    def mean(self, value_ND: Tensor) -> Tensor:
        """The mean over the tokens of each cell, (M, D)."""
        size_M1 = torch.bincount(self.cell_N, minlength=self.count)[:, None].to(value_ND)
        return self.sum(value_ND) / size_M1

    def sum(self, value_ND: Tensor) -> Tensor:
        """The sum over the tokens of each cell, (M, D)."""
        total_MD = value_ND.new_zeros(self.count, value_ND.shape[1])
        return total_MD.index_add_(0, self.cell_N.to(value_ND.device), value_ND)


def softmax_weights(q_TE: Tensor, k_TE: Tensor) -> Tensor:
    """The weights (T, T) that `scaled_dot_product_attention` gives the values, float32; a row for each query."""
    return (q_TE.float() @ k_TE.float().T / math.sqrt(q_TE.shape[1])).softmax(dim=1)


@torch.inference_mode()
def attention_weights(encoder: VisionTransformer, x_CZYX: Tensor, spacing_3: Tensor, cells: Cells) -> tuple[Tensor, Tensor]:
    """One volume through the encoder.

    Args:
        encoder: in evaluation mode.
        x_CZYX: as the encoder is fed, on its device.
        spacing_3: mm along the axes of x.
        cells: of the encoder's tokens at this size.

    Returns:
        Weights float32 (L, H, W, W): row a tells where cell (or register; these come first) a looks, and sums to 1. And the
        output tokens, float32 (N, D).
    """
    registers = encoder.registers

    def pooled(q_BHTE: Tensor, k_BHTE: Tensor) -> Tensor:
        heads = [_join(softmax_weights(q_TE, k_TE), registers, cells) for q_TE, k_TE in zip(q_BHTE[0], k_BHTE[0], strict=True)]
        return torch.stack(heads).cpu()

    with WatchedAttention(pooled) as watched:
        token_BND = encoder(x_CZYX[None], spacing_B3=spacing_3[None])
    return torch.stack(watched.seen), token_BND[0].float().cpu()


def _join(weight_TT: Tensor, registers: int, cells: Cells) -> Tensor:
    """From tokens to cells; registers stay as they are."""
    query_WT = torch.cat([weight_TT[:registers], cells.mean(weight_TT[registers:])])
    key_TW = query_WT.T
    return torch.cat([key_TW[:registers], cells.sum(key_TW[registers:])]).T


def rollout(weight_LHWW: Tensor) -> Tensor:
    """Attention through all layers (Abnar & Zuidema, ACL 2020, §3): the product of (mean over heads + identity) / 2."""
    flow_WW = torch.eye(weight_LHWW.shape[-1])
    for weight_HWW in weight_LHWW:
        flow_WW = (weight_HWW.mean(dim=0) + torch.eye(len(flow_WW))) / 2 @ flow_WW
    return flow_WW


def similarity(token_ND: Tensor, cells: Cells) -> Tensor:
    """Cosine between the features of every two cells, float32 (M, M): symmetric, 1 on the diagonal."""
    unit_MD = torch.nn.functional.normalize(cells.mean(token_ND).double(), dim=1)
    return (unit_MD @ unit_MD.T).float()
