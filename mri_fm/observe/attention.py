"""How widely attention looks, layer by layer, without changing the network.

Axes: B batch, H heads, Q chosen queries, T tokens, E head width, L layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

QUERIES = 64  # at most, evenly spread over the tokens: a small part of what the layer itself computes


class WatchedAttention(TorchFunctionMode):
    """Inside the context every `scaled_dot_product_attention` also leaves `look(q_BHTE, k_BHTE)`, in the order of the calls.

    What is compiled does not pass here: run it eagerly.
    """

    def __init__(self, look: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self._look = look
        self.seen: list[Tensor] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Look at queries and keys, then do what was asked for."""
        if func is F.scaled_dot_product_attention:
            self.seen.append(self._look(args[0], args[1]))
        return func(*args, **(kwargs or {}))


class AttentionEntropy(WatchedAttention):
    """Inside the context every attention leaves its entropy.

    The entropy of a query's weights over the T tokens, −Σ p ln p / ln T, is 1 where it looks everywhere alike and 0 where it
    looks at one token alone; the mean over heads and chosen queries is kept for each sample. A fall towards 0 in some layer
    announces divergence (Zhai et al., ICML 2023, arXiv 2303.06296, §3); 1 in all layers means that attention does nothing.
    """

    def __init__(self) -> None:
        super().__init__(attention_entropy)

    def per_layer(self) -> Tensor:
        """What was seen, float32 (B, L)."""
        return torch.stack(self.seen, dim=1)


def attention_entropy(q_BHTE: Tensor, k_BHTE: Tensor) -> Tensor:
    """See `AttentionEntropy`; float32 (B,). Of more than `QUERIES` tokens evenly spread ones ask."""
    tokens = q_BHTE.shape[2]
    q_BHQE = q_BHTE[:, :, :: math.ceil(tokens / QUERIES)].float()
    log_p_BHQT = (q_BHQE @ k_BHTE.float().transpose(2, 3) / math.sqrt(q_BHTE.shape[3])).log_softmax(dim=3)
    return -(log_p_BHQT.exp() * log_p_BHQT).sum(dim=3).mean(dim=(1, 2)) / math.log(max(tokens, 2))
