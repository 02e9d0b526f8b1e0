"""The pre-LN transformer block (Dosovitskiy et al., ICLR 2021; Xiong et al., ICML 2020).

Every parameter is used inside the forward of the module that owns it, and is initialised inside that module's constructor,
which is what ZeRO-3 needs to gather and to partition it.

Axes: B batch, T tokens, D width, H heads, E head width.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

INIT_STD = 0.02
LN_EPS = 1e-6


class Linear(nn.Linear):
    """A linear layer with truncated-normal weights of standard deviation `std`, cut at two of them, and zero bias."""

    def __init__(self, in_features: int, out_features: int, std: float = INIT_STD) -> None:
        self.std = std
        super().__init__(in_features, out_features)

    def reset_parameters(self) -> None:
        """Draw the initial weights; called by the constructor."""
        nn.init.trunc_normal_(self.weight, std=self.std, a=-2 * self.std, b=2 * self.std)
        nn.init.zeros_(self.bias)


class Attention(nn.Module):
    """Multi-head self-attention over all tokens, (B, T, D) → (B, T, D)."""

    def __init__(self, width: int, heads: int, out_std: float) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"a width of {width} does not divide by {heads} heads")
        self.heads = heads
        self.qkv = Linear(width, 3 * width)
        self.out = Linear(width, width, out_std)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Attend."""
        qkv = self.qkv(x_BTD).unflatten(2, (3, self.heads, -1))
        q_BHTE, k_BHTE, v_BHTE = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed_BHTE = F.scaled_dot_product_attention(q_BHTE, k_BHTE, v_BHTE)
        return self.out(mixed_BHTE.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Two linear layers with an exact GELU between them, (B, T, D) → (B, T, D)."""

    def __init__(self, width: int, hidden: int, out_std: float) -> None:
        super().__init__()
        self.up = Linear(width, hidden)
        self.down = Linear(hidden, width, out_std)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Expand, bend, contract."""
        return self.down(F.gelu(self.up(x_BTD)))


class Block(nn.Module):
    """x + attention(LN(x)), then x + MLP(LN(x)).

    The last layer of both branches starts smaller by 1/sqrt(2·layer), so that the variance of the residual stream does not
    grow with depth (Radford et al., 2019, §2.3; here per layer, counted from 1).
    """

    def __init__(self, width: int, heads: int, mlp_ratio: float, layer: int) -> None:
        super().__init__()
        out_std = INIT_STD / math.sqrt(2 * layer)
        self.norm_attention = nn.LayerNorm(width, eps=LN_EPS)
        self.attention = Attention(width, heads, out_std)
        self.norm_mlp = nn.LayerNorm(width, eps=LN_EPS)
        self.mlp = MLP(width, round(width * mlp_ratio), out_std)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Mix the tokens, then each token's features."""
        x_BTD = x_BTD + self.attention(self.norm_attention(x_BTD))
        return x_BTD + self.mlp(self.norm_mlp(x_BTD))


def block_stack(width: int, depth: int, heads: int, mlp_ratio: float) -> nn.ModuleList:
    """`depth` blocks."""
    return nn.ModuleList(Block(width, heads, mlp_ratio, layer) for layer in range(1, depth + 1))
