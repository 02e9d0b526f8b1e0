"""The encoder under the names that timm's feature extractors have (huggingface.co/docs/timm, "Feature Extraction").

Axes: B batch, C channels, N tokens, T tokens and registers, D width, Z/Y/X depth, height, width in voxels or tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mri_fm.errors import UserError
from mri_fm.export.encoder import Encoder
from mri_fm.models.patches import Size3
from mri_fm.models.vit import VisionTransformer

FORMATS = ("NCDHW", "NLC")


class FeatureExtractor(nn.Module):
    """An encoder for networks that are written against timm's API; it can be trained further.

    Attributes:
        network: the encoder's `VisionTransformer`, shared with it.
        num_features, embed_dim: D.
        depth: number of blocks.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.network = encoder.network
        self.num_features = self.embed_dim = encoder.width
        self.depth = len(self.network.blocks)

    def forward(self, x_BCZYX: Tensor, spacing_B3: Tensor | None = None) -> Tensor:
        """Pooled features (B, D): the mean over the tokens."""
        return self.forward_head(self.forward_features(x_BCZYX, spacing_B3))

    def forward_features(self, x_BCZYX: Tensor, spacing_B3: Tensor | None = None) -> Tensor:
        """Tokens (B, N, D) after the last norm."""
        return self.network(x_BCZYX, spacing_B3=spacing_B3)

    def forward_head(self, x_BND: Tensor, pre_logits: bool = True) -> Tensor:
        """Pooled features (B, D). There is no classifier, so that `pre_logits` changes nothing."""
        return x_BND.mean(dim=1)

    def forward_intermediates(
        self,
        x_BCZYX: Tensor,
        indices: int | Sequence[int] | None = None,
        *,
        norm: bool = False,
        output_fmt: str = "NCDHW",
        intermediates_only: bool = False,
        spacing_B3: Tensor | None = None,
    ) -> tuple[Tensor, list[Tensor]] | list[Tensor]:
        """Outputs of blocks, without registers.

        Args:
            x_BCZYX: z-scored volumes.
            indices: numbers of blocks, from 0, negative ones from the end; a single n: the last n; None: all.
            norm: apply the last norm to each.
            output_fmt: "NCDHW" for maps (B, D, Z, Y, X) of tokens, "NLC" for (B, N, D).
            intermediates_only: leave the final tokens out.
            spacing_B3: mm between voxels along z, y, x.

        Returns:
            Final tokens (B, N, D) and the list, or the list alone.

        Raises:
            UserError: an unknown format or no such block.
        """
        if output_fmt not in FORMATS:
            raise UserError(f"output_fmt='{output_fmt}' is not one of {', '.join(FORMATS)}")
        chosen = chosen_blocks(self.depth, indices)
        final_BND, outputs = block_outputs(self.network, x_BCZYX, spacing_B3)
        kept = [self.network.norm(outputs[index]) if norm else outputs[index] for index in chosen]
        if output_fmt == "NCDHW":
            kept = [token_maps(tokens_BND, x_BCZYX, self.network.patch) for tokens_BND in kept]
        return kept if intermediates_only else (final_BND, kept)


def chosen_blocks(depth: int, indices: int | Sequence[int] | None) -> list[int]:
    """Numbers of blocks, from 0, that `forward_intermediates` is asked for.

    Raises:
        UserError: there is no such block.
    """
    if indices is None:
        return list(range(depth))
    wanted = range(-indices, 0) if isinstance(indices, int) else indices
    for index in wanted:
        if not -depth <= index < depth:
            raise UserError(f"there is no block {index}: the encoder has {depth}")
    return [index % depth for index in wanted]


def block_outputs(network: VisionTransformer, x_BCZYX: Tensor, spacing_B3: Tensor | None) -> tuple[Tensor, list[Tensor]]:
    """Final tokens (B, N, D) and the output of each block, (B, N, D), without registers."""
    outputs: list[Tensor] = []
    registers = network.registers
    hooks = [
        block.register_forward_hook(lambda _module, _given, out_BTD: outputs.append(out_BTD[:, registers:]))
        for block in network.blocks
    ]
    try:
        return network(x_BCZYX, spacing_B3=spacing_B3), outputs
    finally:
        for hook in hooks:
            hook.remove()


def token_maps(tokens_BND: Tensor, x_BCZYX: Tensor, patch: Size3) -> Tensor:
    """Tokens of volumes as maps (B, D, Z, Y, X), one voxel for each token."""
    grid = [voxels // p for voxels, p in zip(x_BCZYX.shape[2:], patch, strict=True)]
    return tokens_BND.transpose(1, 2).unflatten(2, torch.Size(grid))
