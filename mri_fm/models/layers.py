"""The pre-LN transformer block (Dosovitskiy et al., ICLR 2021; Xiong et al., ICML 2020).

Every parameter is used inside the forward of the module that owns it, and is initialised inside that module's constructor,
which is what ZeRO-3 needs to gather and to partition it.

Axes: B batch, L layers, T tokens (of this rank, where ranks share them out), D width, H heads, E head width, 2 the attention's
and the MLP's branch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mri_fm.model_config import ModelConfig
from mri_fm.models.mlp import INIT_STD, Linear, mlp_hidden, mlp_layer
from mri_fm.models.moe import Experts, MoE
from mri_fm.models.positions import Rotation
from mri_fm.models.sequence import Parts, share_out
from mri_fm.rng import Stream, uniform

LN_EPS = 1e-6


@dataclass(frozen=True)
class BlockOptions:
    """What a block is made of, besides its sizes; see `ModelConfig`."""

    mlp: str = "gelu"
    qk_norm: bool = False
    layer_scale: float = 0.0
    experts: Experts | None = None

    @classmethod
    def from_config(cls, model: ModelConfig) -> Self:
        """The options that encoder and heads share."""
        return cls(model.mlp, model.qk_norm, model.layer_scale)


PLAIN = BlockOptions()


class Attention(nn.Module):
    """Multi-head self-attention over all tokens, (B, T, D) → (B, T, D).

    With `qk_norm` each query and key is a LayerNorm with gain and without bias of its features (Dehghani et al., ICML 2023,
    §2), so that no score exceeds sqrt(E) times the two largest gains.
    """

    def __init__(self, width: int, heads: int, out_std: float, qk_norm: bool = False) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"a width of {width} does not divide by {heads} heads")
        self.heads = heads
        self.qkv = Linear(width, 3 * width)
        self.norm_q, self.norm_k = (
            nn.LayerNorm(width // heads, eps=LN_EPS, bias=False) if qk_norm else nn.Identity() for _ in range(2)
        )
        self.out = Linear(width, width, out_std)

    def forward(self, x_BTD: Tensor, rotation: Rotation | None = None, parts: Parts | None = None) -> Tensor:
        """Attend; `rotation` turns queries and keys by their tokens' positions, after the norm.

        With `parts` the tokens are this rank's, and attention is over those of the whole group.
        """
        qkv = self.qkv(x_BTD).unflatten(2, (3, self.heads, -1))
        q_BHTE, k_BHTE, v_BHTE = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        q_BHTE, k_BHTE = self.norm_q(q_BHTE), self.norm_k(k_BHTE)
        if rotation is not None:
            q_BHTE, k_BHTE = rotation.turn(q_BHTE), rotation.turn(k_BHTE)
        if parts is None:
            mixed_BHTE = F.scaled_dot_product_attention(q_BHTE, k_BHTE, v_BHTE)
        else:
            q_BHTE, k_BHTE, v_BHTE = parts.to_heads(torch.stack((q_BHTE, k_BHTE, v_BHTE))).unbind(0)
            mixed_BHTE = parts.to_tokens(F.scaled_dot_product_attention(q_BHTE, k_BHTE, v_BHTE))
        return self.out(mixed_BHTE.transpose(1, 2).flatten(2))


class LayerScale(nn.Module):
    """A learned gain for each feature of a branch, small at first (Touvron et al., ICCV 2021, §2)."""

    def __init__(self, width: int, initial: float) -> None:
        super().__init__()
        self.gain_D = nn.Parameter(torch.full((width,), initial))

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Scale."""
        return x_BTD * self.gain_D


class Block(nn.Module):
    """x + attention(LN(x)), then x + MLP(LN(x)), in some layers a mixture of them (`mri_fm.models.moe`).

    The last layer of both branches starts smaller by 1/sqrt(2·layer), so that the variance of the residual stream does not
    grow with depth (Radford et al., 2019, §2.3; here per layer, counted from 1).
    """

    def __init__(self, width: int, heads: int, mlp_ratio: float, layer: int, options: BlockOptions = PLAIN) -> None:
        super().__init__()
        out_std = INIT_STD / math.sqrt(2 * layer)
        self.norm_attention = nn.LayerNorm(width, eps=LN_EPS)
        self.attention = Attention(width, heads, out_std, options.qk_norm)
        self.norm_mlp = nn.LayerNorm(width, eps=LN_EPS)
        self.mlp: nn.Module
        if options.experts is not None and options.experts.at(layer):
            self.mlp = MoE(width, options.experts, out_std, options.mlp)
        else:
            self.mlp = mlp_layer(width, mlp_hidden(width, mlp_ratio, options.mlp), out_std, options.mlp)
        self.scale_attention, self.scale_mlp = (
            LayerScale(width, options.layer_scale) if options.layer_scale else nn.Identity() for _ in range(2)
        )

    def forward(
        self, x_BTD: Tensor, rotation: Rotation | None = None, gate_B2: Tensor | None = None, parts: Parts | None = None
    ) -> Tensor:
        """Mix the tokens, then each token's features.

        Args:
            x_BTD: tokens.
            rotation: of queries and keys; None: attention sees no positions.
            gate_B2: factors of the two branches in each sample, see `drop_path_gates`; None: 1.
            parts: how ranks share out the tokens; None: these are all.
        """
        return self.mix(x_BTD, rotation, gate_B2, parts)

    def mix(self, x_BTD: Tensor, rotation: Rotation | None, gate_B2: Tensor | None, parts: Parts | None) -> Tensor:
        """What `forward` does; by itself, so that the engine can have it recomputed or compiled (`mri_fm.engine.blocks`)."""
        gates = (None, None) if gate_B2 is None else gate_B2.to(x_BTD.dtype)[..., None, None].unbind(1)
        x_BTD = _add(x_BTD, self.scale_attention(self.attention(self.norm_attention(x_BTD), rotation, parts)), gates[0])
        return _add(x_BTD, self.scale_mlp(self.mlp(self.norm_mlp(x_BTD))), gates[1])


def _add(x_BTD: Tensor, branch_BTD: Tensor, gate_B11: Tensor | None) -> Tensor:
    return x_BTD + (branch_BTD if gate_B11 is None else branch_BTD * gate_B11)


def block_stack(width: int, depth: int, heads: int, mlp_ratio: float, options: BlockOptions = PLAIN) -> nn.ModuleList:
    """`depth` blocks."""
    return nn.ModuleList(Block(width, heads, mlp_ratio, layer, options) for layer in range(1, depth + 1))


def run_blocks(blocks: nn.ModuleList, x_BTD: Tensor, rotation: Rotation | None, gate_BL2: Tensor | None = None) -> Tensor:
    """All blocks in turn, on tokens that the ranks of a sequence group share out where there is one; (B, T, D) → (B, T, D)."""
    parts = share_out(x_BTD.shape[1])
    if parts is not None:
        x_BTD = parts.take(x_BTD, 1)
        rotation = None if rotation is None else rotation.of(parts)
    for layer, block in enumerate(blocks):
        x_BTD = block(x_BTD, rotation, None if gate_BL2 is None else gate_BL2[:, layer], parts)
    return x_BTD if parts is None else parts.gather(x_BTD)


def drop_path_gates(rate: float, depth: int, *, seed: int, positions_B: Tensor) -> Tensor:
    """Stochastic depth (Huang et al., ECCV 2016, §3): which branches a sample takes in training, float32 (B, L, 2).

    Both branches of layer l = 1 … L are left out, each on its own, with probability rate·l/L; the others are scaled up to
    keep the expectation. A function of (seed, position, layer): the batch around a sample, ranks and restarts do not matter.

    Args:
        rate: at the last layer, in [0, 1).
        depth: L.
        seed: the run's seed.
        positions_B: int64, global sample positions.
    """
    drawn_BL2 = uniform(seed, Stream.DROP_PATH, positions_B, 2 * depth).unflatten(1, (depth, 2))
    rate_L1 = torch.arange(1, depth + 1, device=positions_B.device, dtype=torch.float32)[:, None] * (rate / depth)
    return (drawn_BL2 >= rate_L1) / (1 - rate_L1)
