"""The narrow transformers behind the encoder: JEPA's predictor and MAE's decoder, which differ in their output alone.

Axes: B batch, N tokens, V visible tokens, M hidden tokens, D encoder width, H head width, O output width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mri_fm.config import HeadConfig, ModelConfig
from mri_fm.models.layers import INIT_STD, LN_EPS, Linear, block_stack
from mri_fm.models.patches import Size3, sincos_positions
from mri_fm.models.vit import VisionTransformer

HEAD_MLP_RATIO = 4.0


class MaskedHead(nn.Module):
    """Fill in the hidden tokens from the visible ones.

    Visible tokens are mapped to the head's width, one learned mask token stands for each hidden one, both get their fixed
    positions, and blocks mix them. Attention does not see an order, so the hidden tokens simply follow the visible ones.
    """

    def __init__(self, head: HeadConfig, grid: Size3, in_width: int, out_width: int) -> None:
        super().__init__()
        self.embedding = Linear(in_width, head.width)
        self.mask_token_H = nn.Parameter(torch.zeros(head.width))
        nn.init.trunc_normal_(self.mask_token_H, std=INIT_STD, a=-2 * INIT_STD, b=2 * INIT_STD)
        self.register_buffer("position_NH", sincos_positions(head.width, grid), persistent=False)
        self.position_NH: Tensor
        self.blocks = block_stack(head.width, head.depth, head.heads, HEAD_MLP_RATIO)
        self.norm = nn.LayerNorm(head.width, eps=LN_EPS)
        self.output = Linear(head.width, out_width)

    def forward(self, tokens_BVD: Tensor, visible_BV: Tensor, hidden_BM: Tensor) -> Tensor:
        """Predict (B, M, O) at `hidden_BM` from the encoder's tokens at `visible_BV`."""
        visible_BVH = self.embedding(tokens_BVD)
        position_NH = self.position_NH.to(visible_BVH.dtype)
        hidden_BMH = self.mask_token_H.to(visible_BVH.dtype) + position_NH[hidden_BM]
        x_BNH = torch.cat([visible_BVH + position_NH[visible_BV], hidden_BMH], dim=1)
        for block in self.blocks:
            x_BNH = block(x_BNH)
        return self.output(self.norm(x_BNH[:, visible_BV.shape[1] :]))


def predictor(model: ModelConfig, encoder: VisionTransformer) -> MaskedHead:
    """JEPA's predictor: from and to the encoder's width."""
    return MaskedHead(model.predictor, encoder.grid, encoder.width, encoder.width)


def decoder(model: ModelConfig, encoder: VisionTransformer) -> MaskedHead:
    """MAE's decoder: from the encoder's width to the values of a patch, ordered as in `patchify`."""
    values = encoder.in_channels * encoder.patch[0] * encoder.patch[1] * encoder.patch[2]
    return MaskedHead(model.decoder, encoder.grid, encoder.width, values)
