"""The teacher follows the student: an exponential moving average over fp32 masters, sharded as the weights are.

Below ZeRO-3 every rank holds whole parameters and moves the whole teacher; at stage 3 it moves its own shard, without
communication. DeepSpeed keeps other copies, which are refreshed at stage 3: small "persistent" parameters stay gathered, and
with ZeRO++'s hpZ each node has a second shard of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def _local(parameter: nn.Parameter) -> Tensor:
    """What this rank holds of a parameter: its ZeRO-3 shard, or all of it."""
    shard = getattr(parameter, "ds_tensor", None)
    return parameter.data if shard is None else shard.data


def _without_padding(parameter: nn.Parameter, values: Tensor) -> Tensor:
    """What of a shard belongs to the parameter: the last ones are longer than what is left for them."""
    shard = getattr(parameter, "ds_tensor", None)
    if shard is None:
        return values
    left = parameter.ds_numel - parameter.ds_zero_partition_rank * shard.ds_numel  # type: ignore[attr-defined]
    return values.view(-1)[: max(0, min(shard.ds_numel, left))]


class EMA:
    """Moves teacher parameters towards their students at optimizer boundaries.

    The forward weights of the student are read; the average is kept in fp32, since a step of (1 - momentum) is lost to
    rounding in bf16.
    """

    def __init__(self, pairs: Sequence[tuple[nn.Parameter, nn.Parameter]]) -> None:
        """Take (teacher, student) pairs, after DeepSpeed has partitioned them."""
        self.teachers = [teacher for teacher, _ in pairs]
        self.students = [student for _, student in pairs]
        self.masters = [_local(teacher).detach().float().clone() for teacher in self.teachers]
        self.sharded = any(hasattr(teacher, "ds_tensor") for teacher in self.teachers)

    @torch.no_grad()
    def update(self, momentum: float, skipped: Tensor | None = None) -> None:
        """teacher ← momentum · teacher + (1 - momentum) · student.

        Args:
            momentum: in [0, 1].
            skipped: () float32 on the device; where it is 1 the teacher stays as it is, where 0 or None it moves.
        """
        students = [_local(student).float() for student in self.students]
        if skipped is None:
            torch._foreach_lerp_(self.masters, students, 1.0 - momentum)
        else:
            weight = (1.0 - momentum) * (1.0 - skipped)
            torch._foreach_lerp_(self.masters, students, [weight.expand_as(master) for master in self.masters])
        self.publish()

    @torch.no_grad()
    def squares(self) -> Tensor:
        """Σ |student − teacher|² and Σ |student|² over what this rank holds, float32 (2,): at stage 3 its shards, else all."""
        students = [_without_padding(student, _local(student)).float() for student in self.students]
        teachers = [_without_padding(*pair) for pair in zip(self.students, self.masters, strict=True)]
        apart, whole = torch._foreach_sub(students, teachers), students
        sums = [torch.stack(torch._foreach_norm(values)).square().sum() for values in (apart, whole)]
        return torch.stack(sums)

    @torch.no_grad()
    def publish(self) -> None:
        """Write the masters into the forward weights."""
        if not self.masters:  # an objective without a teacher
            return
        torch._foreach_copy_([_local(teacher) for teacher in self.teachers], self.masters)
        if self.sharded:
            refresh_gathered(self.teachers)


def refresh_gathered(parameters: Sequence[nn.Parameter]) -> None:
    """At ZeRO-3, renew what is kept of these parameters beside their shards, after these have changed; by all ranks.

    DeepSpeed renews the second shards of hpZ at each step for trained parameters alone.
    """
    from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus

    stale = [p for p in parameters if p.ds_status == ZeroParamStatus.AVAILABLE]  # type: ignore[attr-defined]
    if stale:
        stale[0].partition(stale, has_been_updated=False)  # type: ignore[attr-defined]
    for parameter in parameters:
        if getattr(parameter, "ds_secondary_tensor", None) is not None:
            parameter.ds_secondary_tensor = None  # type: ignore[attr-defined]  # the next gather takes the first shard
    if stale:
        stale[0].all_gather(stale)  # type: ignore[attr-defined]
