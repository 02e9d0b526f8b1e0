"""The teacher follows the student: an exponential moving average over fp32 masters, sharded as the weights are.

Below ZeRO-3 every rank holds whole parameters and moves the whole teacher; at stage 3 it moves its own shard, without
communication. DeepSpeed keeps small "persistent" parameters gathered, so at stage 3 their full copies are refreshed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn


def _local(parameter: nn.Parameter) -> Tensor:
    """What this rank holds of a parameter: its ZeRO-3 shard, or all of it."""
    shard = getattr(parameter, "ds_tensor", None)
    return parameter.data if shard is None else shard.data


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
        self._publish()

    def _publish(self) -> None:
        """Write the masters into the forward weights."""
        torch._foreach_copy_([_local(teacher) for teacher in self.teachers], self.masters)
        if self.sharded:
            self._refresh_persistent()

    def _refresh_persistent(self) -> None:
        from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus

        stale = [p for p in self.teachers if p.ds_status == ZeroParamStatus.AVAILABLE]  # type: ignore[attr-defined]
        if stale:
            stale[0].partition(stale, has_been_updated=False)  # type: ignore[attr-defined]
            stale[0].all_gather(stale)  # type: ignore[attr-defined]

    def save(self, folder: Path, rank: int) -> None:
        """Write this rank's masters; below stage 3 all ranks hold the same and rank 0 writes."""
        if self.teachers and (self.sharded or rank == 0):
            torch.save(self.masters, folder / self._file(rank))

    @torch.no_grad()
    def load(self, folder: Path, rank: int) -> None:
        """Read back what `save` wrote for this rank and give it to the teacher."""
        if not self.teachers:
            return
        saved = torch.load(folder / self._file(rank), map_location="cpu", weights_only=True)
        torch._foreach_copy_(self.masters, [master.to(self.masters[0].device) for master in saved])
        self._publish()

    def _file(self, rank: int) -> str:
        return f"ema_rank_{rank:05d}.pt" if self.sharded else "ema.pt"
