"""Sequence parallelism: ranks share out the tokens of the same samples (Ulysses, Jacobs et al., 2023, arXiv 2309.14509).

Between the blocks each of the S ranks of a group has a part of the tokens. Inside attention it has all tokens of a part of the
heads, to which one all-to-all leads and from which another one leads back:

    Parts.take        (B, T, W) → (B, t, W)            before the first block
    Parts.to_heads    (…, H, t, E) → (…, H/S, T, E)    before attention
    Parts.to_tokens   (…, H/S, T, E) → (…, H, t, E)    after it
    Parts.gather      (B, t, W) → (B, T, W)            after the last block

Outside the blocks all ranks of a group do the same, the loss included. Gradients flow through all four, so the mean over all
ranks of a parameter's gradient is that of the mean loss, wherever the parameter is used: what the engine averages anyway.

DeepSpeed's own layer asks for token counts that divide by S; masks and token budgets leave any number. Here parts differ by
one token at most.

Axes: B batch, T tokens, t a rank's tokens, W width, H heads, E head width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn.functional import all_to_all_single


@dataclass(frozen=True)
class SequenceGroup:
    """The ranks that share out tokens, and which of them this process is."""

    ranks: dist.ProcessGroup
    rank: int
    size: int


@dataclass(frozen=True)
class Parts:
    """How many tokens each rank of a group has."""

    group: SequenceGroup
    lengths: tuple[int, ...]

    def take(self, x: Tensor, axis: int) -> Tensor:
        """This rank's tokens of those along an axis."""
        return x.split(self.lengths, axis)[self.group.rank]

    def gather(self, x_BtW: Tensor) -> Tensor:
        """All tokens, from each rank's."""
        shapes = [_with(x_BtW, {1: length}) for length in self.lengths]
        return torch.cat(self._exchange([x_BtW] * self.group.size, shapes), dim=1)

    def to_heads(self, x: Tensor) -> Tensor:
        """(…, H, t, E) → (…, H/S, T, E)."""
        heads = x.shape[-3] // self.group.size
        shapes = [_with(x, {-3: heads, -2: length}) for length in self.lengths]
        return torch.cat(self._exchange(x.split(heads, -3), shapes), dim=-2)

    def to_tokens(self, x: Tensor) -> Tensor:
        """(…, H/S, T, E) → (…, H, t, E)."""
        shape = _with(x, {-2: self.lengths[self.group.rank]})
        return torch.cat(self._exchange(x.split(self.lengths, -2), [shape] * self.group.size), dim=-3)

    def _exchange(self, pieces: Sequence[Tensor], shapes: Sequence[Sequence[int]]) -> list[Tensor]:
        """Send one piece to each rank; what has come from each, in these shapes."""
        sent = torch.cat([piece.flatten() for piece in pieces])
        counts = [math.prod(shape) for shape in shapes]
        came = all_to_all_single(
            sent.new_empty(sum(counts)), sent, counts, [piece.numel() for piece in pieces], group=self.group.ranks
        )
        return [part.view(shape) for part, shape in zip(came.split(counts), shapes, strict=True)]


def _with(x: Tensor, sizes: dict[int, int]) -> list[int]:
    """The shape of `x` with other sizes along some axes."""
    shape = list(x.shape)
    for axis, size in sizes.items():
        shape[axis] = size
    return shape


_active: SequenceGroup | None = None


@contextmanager
def sharing_tokens(group: SequenceGroup | None) -> Iterator[None]:
    """Forward passes that begin inside share their tokens out over the group, all of whose ranks give the same samples.

    Backward passes, and blocks that run again in them, follow their forward pass wherever they are.
    """
    global _active
    before, _active = _active, group
    try:
        yield
    finally:
        _active = before


def share_out(tokens: int) -> Parts | None:
    """The parts of so many tokens; None outside of `sharing_tokens`.

    Raises:
        ValueError: fewer tokens than ranks.
    """
    if _active is None:
        return None
    if tokens < _active.size:
        raise ValueError(f"{tokens} tokens cannot be shared out over {_active.size} ranks")
    each, rest = divmod(tokens, _active.size)
    return Parts(_active, tuple(each + (rank < rest) for rank in range(_active.size)))
