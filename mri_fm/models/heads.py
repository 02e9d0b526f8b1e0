"""The narrow transformers behind the encoder: JEPA's predictor and MAE's decoder, which differ in their output alone.

Axes: B batch, N tokens, visible then hidden, V visible tokens, M hidden tokens, D encoder width, H head width, O output width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mri_fm.model_config import HeadConfig, ModelConfig
from mri_fm.models.layers import LN_EPS, PLAIN, BlockOptions, block_stack, run_blocks
from mri_fm.models.mlp import INIT_STD, Linear
from mri_fm.models.patches import Size3
from mri_fm.models.positions import Rope, positions
from mri_fm.models.vit import VisionTransformer

HEAD_MLP_RATIO = 4.0


class MaskedHead(nn.Module):
    """Fill in the hidden tokens from the visible ones.

    Visible tokens are mapped to the head's width, one learned mask token stands for each hidden one, both get their
    positions as in the encoder, and blocks mix them. Attention does not see an order, so the hidden tokens simply follow the
    visible ones. There are no registers, which serve an encoder's features, and no drop path: a head is shallow and discarded.
    """

    def __init__(
        self,
        head: HeadConfig,
        grid: Size3,
        in_width: int,
        out_width: int,
        *,
        patch: Size3 = (8, 8, 8),
        options: BlockOptions = PLAIN,
        rope: Rope | None = None,
    ) -> None:
        """Build with random weights; `grid`, `patch`, `options` and `rope` are the encoder's."""
        super().__init__()
        self.embedding = Linear(in_width, head.width)
        self.mask_token_H = nn.Parameter(torch.zeros(head.width))
        nn.init.trunc_normal_(self.mask_token_H, std=INIT_STD, a=-2 * INIT_STD, b=2 * INIT_STD)
        self.grid = grid
        self.position = positions(head.width, head.heads, grid, patch, rope)
        self.blocks = block_stack(head.width, head.depth, head.heads, HEAD_MLP_RATIO, options)
        self.norm = nn.LayerNorm(head.width, eps=LN_EPS)
        self.output = Linear(head.width, out_width)

    def forward(
        self,
        tokens_BVD: Tensor,
        visible_BV: Tensor,
        hidden_BM: Tensor,
        *,
        grid: Size3 | None = None,
        spacing_B3: Tensor | None = None,
    ) -> Tensor:
        """Predict (B, M, O) at `hidden_BM` from the encoder's tokens at `visible_BV`.

        Args:
            tokens_BVD: the encoder's tokens.
            visible_BV: int64, where they lie.
            hidden_BM: int64, where to predict.
            grid: patches of the volumes along z, y, x; default: those the head was built for.
            spacing_B3: as given to the encoder.
        """
        visible_BVH = self.embedding(tokens_BVD)
        hidden_BMH = self.mask_token_H.to(visible_BVH.dtype).expand(*hidden_BM.shape, -1)
        index_BN = torch.cat([visible_BV, hidden_BM], dim=1)
        x_BNH, rotation = self.position(torch.cat([visible_BVH, hidden_BMH], dim=1), index_BN, grid or self.grid, spacing_B3)
        x_BNH = run_blocks(self.blocks, x_BNH, rotation)
        return self.output(self.norm(x_BNH[:, visible_BV.shape[1] :]))


def predictor(model: ModelConfig, encoder: VisionTransformer) -> MaskedHead:
    """JEPA's predictor: from and to the encoder's width."""
    return _head(model, model.predictor, encoder, encoder.width)


def decoder(model: ModelConfig, encoder: VisionTransformer) -> MaskedHead:
    """MAE's decoder: from the encoder's width to the values of a patch, ordered as in `patchify`."""
    values = encoder.in_channels * encoder.patch[0] * encoder.patch[1] * encoder.patch[2]
    return _head(model, model.decoder, encoder, values)


def _head(model: ModelConfig, head: HeadConfig, encoder: VisionTransformer, out_width: int) -> MaskedHead:
    return MaskedHead(
        head,
        encoder.grid,
        encoder.width,
        out_width,
        patch=encoder.patch,
        options=BlockOptions.from_config(model),
        rope=Rope.from_config(model),
    )
