"""What ranks agree on between two steps, over gloo so that the device is not waited for: to stop, and what was skipped."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from types import FrameType
from typing import Any

import torch

from mri_fm.data.skips import Skip, SkipCount
from mri_fm.errors import ResumableError


class Control:
    """One small reduction per optimizer step; more only where a sample was skipped."""

    def __init__(self, skipped: SkipCount, *, sequence: int = 1) -> None:
        """Called by all ranks together; turns SIGTERM and SIGUSR1 into a request to stop.

        Args:
            skipped: counts.
            sequence: neighbouring ranks that read the same samples.
        """
        self.skipped, self._sequence = skipped, sequence
        self._group: Any = torch.distributed.new_group(backend="gloo")
        self._asked = False
        self._new: list[Skip] = []
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._asked = True

    def note(self, skips: Sequence[Skip]) -> None:
        """Keep this rank's skips until the ranks agree."""
        self._new += skips

    def agree(self) -> bool:
        """Count what all ranks have skipped; True if any of them was asked to stop.

        Raises:
            UserError: more skips than the budget, on all ranks with the same list.
            ResumableError: ranks that share out the tokens of the same samples have not read the same.
        """
        sums = torch.tensor([int(self._asked), len(self._new)])
        torch.distributed.all_reduce(sums, group=self._group)
        asked, skips = sums.tolist()
        if skips:
            self.skipped.add(self._gather())
        return asked > 0

    def _gather(self) -> list[Skip]:
        of_rank: list[Any] = [None] * torch.distributed.get_world_size(self._group)
        torch.distributed.all_gather_object(of_rank, self._new, group=self._group)
        self._new = []
        for rank, skips in enumerate(of_rank):
            first = rank - rank % self._sequence
            if [skip.position for skip in skips] != [skip.position for skip in of_rank[first]]:
                named = ", ".join(str(skip) for skip in [*skips, *of_rank[first]])
                raise ResumableError(
                    f"rank {rank} could read what rank {first} of the same samples could not, or the reverse: {named}; "
                    "the same command goes on from the last checkpoint"
                )
        return [skip for skips in of_rank[:: self._sequence] for skip in skips]
