"""What a block does to each token by itself: the linear layer with its initial weights, and two kinds of MLP.

Axes: B batch, T tokens, D width.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

INIT_STD = 0.02


class Linear(nn.Linear):
    """A linear layer with truncated-normal weights of standard deviation `std`, cut at two of them, and zero bias."""

    def __init__(self, in_features: int, out_features: int, std: float = INIT_STD) -> None:
        self.std = std
        super().__init__(in_features, out_features)

    def reset_parameters(self) -> None:
        """Draw the initial weights; called by the constructor."""
        nn.init.trunc_normal_(self.weight, std=self.std, a=-2 * self.std, b=2 * self.std)
        nn.init.zeros_(self.bias)


class MLP(nn.Module):
    """Two linear layers with an exact GELU between them, (B, T, D) → (B, T, D)."""

    def __init__(self, width: int, hidden: int, out_std: float) -> None:
        super().__init__()
        self.up = Linear(width, hidden)
        self.down = Linear(hidden, width, out_std)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Expand, bend, contract."""
        return self.down(F.gelu(self.up(x_BTD)))


class SwiGLU(nn.Module):
    """W3(silu(W1·x) ⊙ W2·x) (Shazeer, 2020), (B, T, D) → (B, T, D); W1 and W2 are one product."""

    def __init__(self, width: int, hidden: int, out_std: float) -> None:
        super().__init__()
        self.gate_up = Linear(width, 2 * hidden)
        self.down = Linear(hidden, width, out_std)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Expand twice, gate, contract."""
        gate, up = self.gate_up(x_BTD).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


def mlp_hidden(width: int, mlp_ratio: float, mlp: str) -> int:
    """Hidden width: ratio·width, and for SwiGLU with its third matrix ⅔ of it, to the nearest multiple of 8."""
    if mlp == "swiglu":
        return max(8 * round(mlp_ratio * width * 2 / 3 / 8), 8)
    return round(width * mlp_ratio)


def mlp_layer(width: int, hidden: int, out_std: float, mlp: str) -> MLP | SwiGLU:
    """The MLP of this kind, "gelu" or "swiglu"."""
    return (SwiGLU if mlp == "swiglu" else MLP)(width, hidden, out_std)
