"""One micro-step of an objective on tensors without values: what it keeps for the backward pass, and what it computes.

Traced rather than derived: whatever options the networks and the objective have, these are the tensors that they make.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.utils.flop_counter import FlopCounterMode

from mri_fm.config import Config
from mri_fm.engine.blocks import prepare_blocks
from mri_fm.engine.setup import build_objective
from mri_fm.inputs import Inputs

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True)
class Trace:
    """What one rank's micro-step of `samples` samples is made of.

    Attributes:
        trained, teacher: elements of each trainable parameter, and of each that follows by EMA.
        buffers: bytes of position tables and the like.
        inputs: bytes of the volumes.
        saved: bytes of tensors kept for the backward pass.
        matmul_flops, attention_flops: of forward and backward pass together, of all samples; attention is scores and mixing.
        recomputed: how much of these is done once more, where activations are not kept.
    """

    samples: int
    trained: tuple[int, ...]
    teacher: tuple[int, ...]
    buffers: int
    inputs: int
    saved: int
    matmul_flops: float
    attention_flops: float
    recomputed: float = 0.0


def trace(config: Config, samples: int, precision: str) -> Trace:
    """Trace a micro-step of `samples` volumes of `data.size` in "bf16" or "fp32"; nothing of the model's size is allocated.

    With `train.checkpoint_activations` the blocks' inputs are kept, and what one block keeps, since it is run again by itself.
    """
    plain = _trace(config, samples, precision, checkpointed=False)
    if not config.train.checkpoint_activations:
        return plain
    lean = _trace(config, samples, precision, checkpointed=True)
    one_block = (plain.saved - lean.saved) // config.model.depth
    return replace(plain, saved=lean.saved + one_block, recomputed=lean.matmul_flops / plain.matmul_flops - 1)


def _trace(config: Config, samples: int, precision: str, *, checkpointed: bool) -> Trace:
    with _without_weights():
        objective = build_objective(config)
    objective.to("meta")
    for parameter in objective.parameters():  # buffers stay float32 under DeepSpeed
        parameter.data = parameter.data.to(DTYPES[precision])
    prepare_blocks(objective, checkpoint_activations=checkpointed, compiled=False)
    x_BCZYX = torch.empty(samples, 1, *config.data.size, device="meta")
    inputs = Inputs(
        x_BCZYX,
        torch.arange(samples, device="meta"),
        0,
        torch.empty_like(x_BCZYX, dtype=torch.bool),
        torch.empty(samples, 3, device="meta"),
    )
    schedule = {name: float(values[-1]) for name, values in objective.schedules(2).items()}
    with _fused_attention(), FlopCounterMode(display=False) as counter:
        saved, loss = saved_bytes(lambda: objective(inputs, schedule)[0], objective, x_BCZYX)
        loss.backward()
    flops, products = objective.flops_per_sample() * samples, float(counter.get_total_flops())
    return Trace(
        samples,
        tuple(p.numel() for p in objective.parameters() if p.requires_grad),
        tuple(teacher.numel() for teacher, _ in objective.ema_pairs()),
        sum(buffer.nbytes for buffer in objective.buffers()),
        x_BCZYX.nbytes + samples * x_BCZYX[0].numel(),
        saved,
        products,
        max(0.0, flops - products),  # the rest is attention, which the counter was not shown
    )


def saved_bytes(forward: Callable[[], Tensor], module: nn.Module, *given: Tensor) -> tuple[int, Tensor]:
    """Bytes that a forward pass keeps for its backward pass, each storage once, and what it returned.

    Neither the parameters and buffers of `module` nor what is `given` count: they are there anyhow.
    """
    kept: dict[int, int] = {}
    partitioned = any(hasattr(parameter, "ds_tensor") for parameter in module.parameters())
    owned = _storages(module, given)

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in (_storages(module, given) if partitioned else owned):
            kept[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = forward()
    return sum(kept.values()), result


def _storages(module: nn.Module, given: Sequence[Tensor]) -> set[int]:
    """Where parameters and buffers lie; ZeRO-3 moves the parameters about."""
    return {tensor.untyped_storage()._cdata for tensor in (*module.parameters(), *module.buffers(), *given)}


@contextmanager
def _without_weights() -> Iterator[None]:
    """Modules built inside have parameters without values; other tensors are as ever."""

    def drop(module: nn.Module, name: str, parameter: nn.Parameter) -> nn.Parameter:
        return nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)

    handle = register_module_parameter_registration_hook(drop)  # type: ignore[arg-type]
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _fused_attention() -> Iterator[None]:
    """Attention keeps what its fused kernels keep; without values torch would take the plain one, with all scores.

    Put in its place for all threads, since autograd runs blocks again in one of its own.
    """
    plain = F.scaled_dot_product_attention
    F.scaled_dot_product_attention = _Attention.apply
    try:
        yield
    finally:
        F.scaled_dot_product_attention = plain


class _Attention(torch.autograd.Function):
    """Shapes of fused attention (Dao et al., NeurIPS 2022): kept are queries, keys, values, output, one float32 a row."""

    @staticmethod
    def forward(context: Any, q_BHTE: Tensor, k_BHTE: Tensor, v_BHTE: Tensor) -> Tensor:
        batch, heads, tokens, width = q_BHTE.shape
        out_BHTE = q_BHTE.new_empty(batch, tokens, heads, width).transpose(1, 2)
        lse_BHT = q_BHTE.new_empty(batch, heads, tokens, dtype=torch.float32)
        context.save_for_backward(q_BHTE, k_BHTE, v_BHTE, out_BHTE, lse_BHT)
        return out_BHTE

    @staticmethod
    def backward(context: Any, *gradient_BHTE: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(tensor) for tensor in context.saved_tensors[:3])
