"""Bytes that one GPU holds while it trains, by what they are for, under ZeRO stages 1 to 3 of the pinned DeepSpeed.

Per rank of W, for P trainable and T teacher elements of b bytes each (2 in bf16, 4 in fp32), bucket elements R:

                 stages 1, 2            stage 3
    parameters   b·P                    b·P/W + those gathered between forward and backward pass, at most the live limit
    gradients    b·P/W + b·R            b·P/W + b·R        (stage 1 with accumulation: b·P + b·R; 1 and 2:
                                                            half of a parameter more)
    optimizer    12·P/W                 12·P/W             (fp32 masters and two moments; offloaded: 0)
    teacher      b·T + 4·T              (b + 4)·T/W + the small ones that stay whole
    activations  what a trace of the micro-step keeps for the backward pass, and what it needs besides for a moment

Reference: Rajbhandari et al., ZeRO, SC 2020. `tests/launch/test_memory.py` holds this against counted tensors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from launch.planning.trace import Trace

_MOMENTS = 12  # bytes of an fp32 master weight and AdamW's two moments
_LIVE = 1_000_000_000  # DeepSpeed's defaults of stage3_max_live_parameters and stage3_max_reuse_distance
_PERSISTENT = 100_000  # and of stage3_param_persistence_threshold
_BUCKET = 500_000_000  # and of reduce_bucket_size
BYTES = {"bf16": 2, "fp32": 4}


@dataclass(frozen=True)
class Memory:
    """Bytes of one rank; `workspace` is what a step needs for a moment: the EMA's copy of the student, or of the gradients."""

    parameters: float
    gradients: float
    optimizer: float
    teacher: float
    buffers: float
    activations: float
    workspace: float

    @property
    def total(self) -> float:
        """All of them together: an upper bound, since gradients grow while activations go."""
        return float(sum(getattr(self, field.name) for field in fields(self)))


@dataclass(frozen=True)
class Zero:
    """What of a DeepSpeed configuration counts for memory and communication."""

    stage: int
    bucket: int
    live: int
    persistent: int
    offload: bool
    overlap: bool
    quantized: bool

    @classmethod
    def of(cls, sharding: Mapping[str, Any]) -> Zero:
        """Read `zero_optimization`; DeepSpeed's defaults for what it leaves out."""
        section = sharding.get("zero_optimization", {})
        stage = int(section.get("stage", 0))
        live = (section.get(f"stage3_max_{name}", _LIVE) for name in ("live_parameters", "reuse_distance"))
        return cls(
            stage,
            int(section.get("reduce_bucket_size", _BUCKET)),
            int(min(live)),
            int(section.get("stage3_param_persistence_threshold", _PERSISTENT)),
            section.get("offload_optimizer", {}).get("device", "none") != "none",
            bool(section.get("overlap_comm", stage == 3)),
            bool(section.get("zero_quantized_weights", False)),
        )


def memory(trace: Trace, zero: Zero, *, world: int, precision: str, accumulation: int) -> Memory:
    """The bytes of one of `world` ranks, for the micro-step that was traced."""
    size = BYTES[precision]
    trained, teacher = sum(trace.trained), sum(trace.teacher)
    if zero.stage == 3:
        small = _small(trace.trained, zero.persistent)
        gathered = small + min(trained - small, zero.live)
        parameters = float(size * (_shard(trace.trained, world) + gathered))
        following = float((size + 4) * _shard(trace.teacher, world) + size * _small(trace.teacher, zero.persistent))
    else:
        parameters, following = float(size * trained), float((size + 4) * teacher)
    kept = trained if zero.stage == 1 and accumulation > 1 else trained / world
    if zero.stage < 3:
        # A parameter across the border of two shards stays whole, half of it not ours; large ones lie there oftener.
        kept += sum(number**2 for number in trace.trained) / trained / 2
    follower = teacher / world if zero.stage == 3 else teacher
    return Memory(
        parameters,
        size * (kept + zero.bucket),
        0.0 if zero.offload else _MOMENTS * trained / world,
        following,
        trace.buffers + trace.inputs,
        trace.saved,
        max(4 * follower if size == 2 else 0, 0 if zero.offload else 4 * trained / world),
    )


def _small(numbers: Iterable[int], threshold: int) -> int:
    """Elements of the parameters that stage 3 keeps whole on every rank."""
    return sum(number for number in numbers if number <= threshold)


def _shard(numbers: Iterable[int], world: int) -> int:
    """Elements of one rank, each parameter rounded up to divide by the ranks."""
    return sum(-(-number // world) for number in numbers)
