"""Which tokens are hidden: a pure function of (seed, sample position), drawn on the device and exact in number.

Axes: B batch, N tokens, V visible tokens, M hidden tokens (V + M = N).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mri_fm.rng import Stream, hash_bits


def random_mask(
    num_tokens: int,
    ratio: float,
    *,
    seed: int,
    positions_B: Tensor,
    shared: bool = False,
    group_position: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Uniformly random masks without replacement (He et al., CVPR 2022, §3).

    Args:
        num_tokens: N, at least 2.
        ratio: share of hidden tokens in [0, 1]; round-half-up(ratio·N) are hidden, and at least one is hidden and one visible.
        seed: the run's seed.
        positions_B: int64 (B,), global sample positions. A row depends on its position alone, not on the batch around it.
        shared: one mask for the whole batch, drawn from `group_position` alone.
        group_position: first position of the global micro-step, equal on all ranks.

    Returns:
        visible_BV, hidden_BM: int64 token indices, ascending, disjoint and complete, on the device of `positions_B`.

    Raises:
        ValueError: `num_tokens` or `ratio` out of range, or `shared` without `group_position`.
    """
    hidden = count_hidden(num_tokens, ratio)
    rows = positions_B
    if shared:
        if group_position is None:
            raise ValueError("a shared mask is drawn from group_position, which is missing")
        rows = torch.full((1,), group_position, dtype=torch.int64, device=positions_B.device)
    order = torch.argsort(hash_bits(seed, Stream.MASK, rows, num_tokens), dim=1, stable=True)
    hidden_BM, visible_BV = order[:, :hidden].sort(dim=1).values, order[:, hidden:].sort(dim=1).values
    if shared:
        batch = positions_B.shape[0]
        return visible_BV.repeat(batch, 1), hidden_BM.repeat(batch, 1)
    return visible_BV, hidden_BM


def count_hidden(num_tokens: int, ratio: float) -> int:
    """M for N tokens, see `random_mask`.

    Raises:
        ValueError: `num_tokens` below 2 or `ratio` outside [0, 1].
    """
    if num_tokens < 2:
        raise ValueError(f"{num_tokens} tokens cannot be split into hidden and visible ones: at least 2 are needed")
    if not 0.0 <= ratio <= 1.0:
        raise ValueError(f"a mask ratio of {ratio} is not in [0, 1]")
    return min(max(math.floor(ratio * num_tokens + 0.5), 1), num_tokens - 1)
