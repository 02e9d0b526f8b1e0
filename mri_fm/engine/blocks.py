"""How transformer blocks are run: recomputed in the backward pass, compiled, or as they are."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mri_fm.models.layers import Block


def prepare_blocks(module: nn.Module, *, checkpoint_activations: bool, compiled: bool) -> None:
    """Change how every `Block` of a module runs, student, teacher and heads alike; names and weights stay.

    Args:
        module: an objective, before DeepSpeed has it.
        checkpoint_activations: keep the input of a block alone and run the block again in the backward pass (Chen et al., 2016,
            arXiv 1604.06174). Nothing in a block is drawn while it runs, drop path included, so the results are the same bits.
        compiled: run each block through `torch.compile`. Blocks of one width share their code; another number of tokens is
            compiled once more, then with sizes left open.
    """
    for block in module.modules():
        if not isinstance(block, Block):
            continue
        if compiled:
            block.mix = torch.compile(block.mix)  # type: ignore[method-assign]
        if checkpoint_activations:
            block.mix = partial(_recomputed, block.mix)  # type: ignore[method-assign]


def _recomputed(mix: Callable[..., Tensor], *inputs: Any) -> Tensor:
    if not torch.is_grad_enabled():
        return mix(*inputs)
    recomputed: Tensor = checkpoint(mix, *inputs, use_reentrant=False, preserve_rng_state=False)
    return recomputed
