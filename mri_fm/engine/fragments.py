"""What one rank holds of the trained state, as ranges of flattened parameters: the only place that knows DeepSpeed's shards.

A fragment is a live view of fp32 masters, Adam moments or the teacher's average, with the parameter's name and the place of its
first element. Saving copies fragments out; loading, on any number of ranks at any ZeRO stage, fills the fragments found there.
Nothing of DeepSpeed's own checkpoints is used: their universal form loses the frozen teacher, gives all parameter groups the
settings of the first and lets them share one step count. Settings of parameter groups are no part of a checkpoint: the loop
sets them at every step from the configuration.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from mri_fm.engine.ema import EMA, refresh_gathered

WEIGHT = "weight"
MOMENTS = ("exp_avg", "exp_avg_sq")  # AdamW's


@dataclass(frozen=True)
class Fragment:
    """Elements [start, start + n) of a flattened parameter's weight or moment."""

    kind: str  # WEIGHT or one of MOMENTS
    name: str
    start: int
    values_N: Tensor
    replicated: bool = False  # all ranks hold the same

    def share(self, rank: int, world: int) -> Fragment:
        """The part that this rank writes: of what all ranks hold, its share."""
        if not self.replicated:
            return self
        size = self.values_N.numel()
        begin, end = size * rank // world, size * (rank + 1) // world
        return Fragment(self.kind, self.name, self.start + begin, self.values_N[begin:end])


class State(Protocol):
    """Where values come from: a checkpoint."""

    optimizer_step: int

    def read(self, kind: str, name: str, start: int, size: int) -> Tensor:
        """Elements [start, start + size) of a flattened parameter."""


@dataclass(frozen=True)
class Owned:
    """Elements of a trained parameter for which this rank steps the optimizer: a range of one of the optimizer's tensors."""

    master: Tensor
    offset: int
    start: int
    size: int
    replicated: bool = False

    def fragment(self, kind: str, name: str, tensor: Tensor) -> Fragment:
        """The part of `tensor`, which is laid out as `master` is."""
        values_N = tensor.detach().view(-1).narrow(0, self.offset, self.size)
        return Fragment(kind, name, self.start, values_N, self.replicated)


def local_fragments(engine: Any, ema: EMA) -> list[Fragment]:
    """All that this rank holds; the optimizer's moments are made where it has not stepped yet."""
    averages = {id(teacher): master for teacher, master in zip(ema.teachers, ema.masters, strict=True)}
    found: list[Fragment] = []
    for name, parameter in engine.module.named_parameters():
        if parameter.requires_grad:
            found += _trained(engine.optimizer, name, parameter)
        else:
            found += _frozen(name, parameter, averages.get(id(parameter)))
    for name, buffer in _persistent_buffers(engine.module):
        found.append(Fragment(WEIGHT, name, 0, buffer.view(-1), replicated=True))
    return [fragment for fragment in found if fragment.values_N.numel()]


def whole_shapes(module: nn.Module) -> dict[str, list[int]]:
    """The shapes of all parameters and persistent buffers, whole, by name."""
    parameters = {name: list(getattr(p, "ds_shape", p.shape)) for name, p in module.named_parameters()}
    return parameters | {name: list(buffer.shape) for name, buffer in _persistent_buffers(module)}


def owned_parts(engine: Any) -> Iterator[tuple[str, nn.Parameter, Owned]]:
    """The trained parameters of which this rank steps a part, by name."""
    for name, parameter in engine.module.named_parameters():
        owned = _owned(engine.optimizer, parameter) if parameter.requires_grad else None
        if owned is not None and owned.size:
            yield name, parameter, owned


def optimizer_state(engine: Any, owned: Owned) -> tuple[Tensor, dict[str, Tensor]]:
    """The fp32 weights of an owned part, and its moments with the number of steps under "step"; all flat and live."""
    state = _moments(_inner(engine.optimizer), owned.master)
    parts = {kind: state[kind].view(-1).narrow(0, owned.offset, owned.size) for kind in MOMENTS}
    return owned.master.detach().view(-1).narrow(0, owned.offset, owned.size), parts | {"step": state["step"]}


def optimizer_step(engine: Any) -> int:
    """How many steps the optimizer has taken."""
    return max((int(state["step"]) for state in _inner(engine.optimizer).state.values() if "step" in state), default=0)


@torch.no_grad()
def restore(engine: Any, ema: EMA, state: State) -> None:
    """Fill what this rank holds, then the forward weights, from a checkpoint."""
    for fragment in local_fragments(engine, ema):
        fragment.values_N.copy_(state.read(fragment.kind, fragment.name, fragment.start, fragment.values_N.numel()))
    for moments in _inner(engine.optimizer).state.values():
        moments["step"].fill_(state.optimizer_step)
    if _is_stage_3(engine.optimizer):
        _publish_shards(engine)
    else:
        _load_forward_weights(engine.module, state)
    ema.publish()


def _trained(optimizer: Any, name: str, parameter: nn.Parameter) -> Iterator[Fragment]:
    owned = _owned(optimizer, parameter)
    if owned is None:
        return
    yield owned.fragment(WEIGHT, name, owned.master)
    moments = _moments(_inner(optimizer), owned.master)
    for kind in MOMENTS:
        yield owned.fragment(kind, name, moments[kind])


def _owned(optimizer: Any, parameter: Any) -> Owned | None:
    """Where the optimizer keeps this rank's part of a trained parameter; None if it has no part of it."""
    if _is_stage_3(optimizer):
        group, offset, _ = optimizer.grad_position[optimizer.get_param_id(parameter)]
        start, size = _shard_range(parameter)
        return Owned(optimizer.fp32_partitioned_groups_flat[group], offset, start, size)
    if not hasattr(optimizer, "single_partition_of_fp32_groups"):  # stage 0: torch's own AdamW
        return Owned(parameter, 0, 0, parameter.numel(), replicated=True)
    mapping = parameter._hp_mapping
    if mapping is None:
        return None
    inner, outer = mapping.hp_fragment_address, mapping.lp_fragment_address
    master = optimizer.single_partition_of_fp32_groups[mapping.param_group_index]
    return Owned(master, inner.start, outer.start, inner.numel)


def _frozen(name: str, parameter: Any, average: Tensor | None) -> Iterator[Fragment]:
    """A parameter that the optimizer does not know: the teacher's, as its fp32 average, or one that never moves."""
    if not hasattr(parameter, "ds_tensor"):
        whole = parameter.detach() if average is None else average
        yield Fragment(WEIGHT, name, 0, whole.view(-1), replicated=True)
        return
    start, size = _shard_range(parameter)
    shard = parameter.ds_tensor.data if average is None else average
    yield Fragment(WEIGHT, name, start, shard.view(-1)[:size])


def _shard_range(parameter: Any) -> tuple[int, int]:
    """Start and size of this rank's ZeRO-3 shard, less the padding of the last ones."""
    start = parameter.ds_zero_partition_rank * parameter.ds_tensor.ds_numel
    return start, max(0, min(parameter.ds_tensor.ds_numel, parameter.ds_numel - start))


def _moments(inner: torch.optim.Optimizer, master: Tensor) -> dict[str, Tensor]:
    """AdamW's state of one of its tensors, as its first step would make it."""
    state: dict[str, Tensor] = inner.state[master]
    if not state:
        device = master.device if inner.defaults["fused"] else torch.device("cpu")
        state["step"] = torch.zeros((), dtype=torch.float32, device=device)
        for kind in MOMENTS:
            state[kind] = torch.zeros_like(master, memory_format=torch.preserve_format, requires_grad=False)
    return state


def _publish_shards(engine: Any) -> None:
    """Stage 3: masters into the shards of the forward weights, and those into the copies that are kept gathered."""
    optimizer = engine.optimizer
    for group in range(len(optimizer.fp32_partitioned_groups_flat)):
        optimizer._reassign_or_swap_out_partitioned_parameters(group)
    refresh_gathered(list(engine.module.parameters()))
    optimizer.invalidate_secondary_tensor()


def _load_forward_weights(module: nn.Module, state: State) -> None:
    """Below stage 3 every rank has whole forward weights: the masters, rounded to their precision."""
    for name, parameter in module.named_parameters():
        parameter.copy_(state.read(WEIGHT, name, 0, parameter.numel()).view_as(parameter))


def _persistent_buffers(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    saved = module.state_dict()
    return ((name, buffer) for name, buffer in module.named_buffers() if name in saved)


def _inner(optimizer: Any) -> Any:
    return getattr(optimizer, "optimizer", optimizer)


def _is_stage_3(optimizer: Any) -> bool:
    return hasattr(optimizer, "fp32_partitioned_groups_flat")
