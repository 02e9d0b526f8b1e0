"""The encoder as the vision transformer that MONAI's UNETR-like networks expect (Hatamizadeh et al., WACV 2022).

    unetr = UNETR(in_channels=1, out_channels=3, img_size=encoder.network.size, hidden_size=encoder.width, …)
    unetr.vit = MonaiViT(encoder)

UNETR's decoder is made for patches of 16 voxels and twelve blocks; for others take `feature_maps` and a decoder with one
upsampling for each factor of two in the patch. Inputs are the encoder's: z-scored, (B, C, depth, height, width); MONAI's own
order is x, y, z.

Axes: B batch, C channels, N tokens, D width, Z/Y/X depth, height, width in voxels or tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from mri_fm.export.adapters.features import block_outputs, chosen_blocks, token_maps
from mri_fm.export.encoder import Encoder


class MonaiViT(nn.Module):
    """Stands in for `monai.networks.nets.ViT`; it can be trained further. Needs no MONAI itself."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.network = encoder.network
        self.hidden_size = encoder.width

    def forward(self, x_BCZYX: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Final tokens (B, N, D) and those after each block, (B, N, D), as MONAI's ViT returns them."""
        return block_outputs(self.network, x_BCZYX, None)

    def feature_maps(self, x_BCZYX: Tensor, layers: Sequence[int]) -> list[Tensor]:
        """Tokens after blocks, counted from 0, as maps (B, D, Z, Y, X).

        Raises:
            UserError: no such block.
        """
        chosen = chosen_blocks(len(self.network.blocks), layers)
        _, outputs = block_outputs(self.network, x_BCZYX, None)
        return [token_maps(outputs[layer], x_BCZYX, self.network.patch) for layer in chosen]
