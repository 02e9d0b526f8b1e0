"""Sums over the ranks of a process group that gradients flow through."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class AllReduceSum(torch.autograd.Function):
    """Sum over ranks, forwards and backwards."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        """Σ over ranks of x."""
        ctx.group = group
        return all_reduce(x, group)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """Σ over ranks of the gradient, since every rank's loss depends on every rank's x."""
        return all_reduce(grads[0], ctx.group), None


def world_size(group: dist.ProcessGroup | None) -> int:
    """Ranks of `group`; None is the default group, or this process alone where there is none."""
    return dist.get_world_size(group) if dist.is_available() and dist.is_initialized() else 1


def all_reduce(x: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """Σ over ranks of x as a new tensor, without gradient."""
    x = x.clone(memory_format=torch.contiguous_format)
    if world_size(group) > 1:
        dist.all_reduce(x, group=group)
    return x
