"""A trace of some steps by torch.profiler, and how much of them was communication."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

PROFILE_DIR = "profile"
_COMMUNICATION = ("nccl", "gloo:")  # how events that move data between ranks begin: NCCL's kernels, gloo's operations


class StepProfiler:
    """Records the steps of a window, on rank 0 alone; all of a run that is resumed inside it counts as its rest."""

    def __init__(self, window: range, run_dir: Path, device: torch.device) -> None:
        """Profile steps `window` (from 1; an empty range: none) into `run_dir`/profile."""
        self._window, self._folder, self._device = window, run_dir / PROFILE_DIR, device
        self._profile: profile | None = None
        self._first = 0
        self._found: dict[str, float] = {}

    @contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Around optimizer step `number`: starts at the window's begin and writes the trace at its end."""
        if number in self._window and self._profile is None:
            self._start(number)
        yield
        if self._profile is not None and number == self._window[-1]:
            self._finish(number)

    def report(self) -> dict[str, float]:
        """What a trace that was written since the last call says.

        Returns:
            "communication_share": see `communication_share`. Nothing where no trace has been written, or one without such
            events, as with one rank.
        """
        found, self._found = self._found, {}
        return found

    def _start(self, number: int) -> None:
        activities = [ProfilerActivity.CPU]
        if self._device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        self._first = number
        self._profile = profile(activities=activities, record_shapes=True)
        self._profile.start()

    def _finish(self, number: int) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        assert self._profile is not None
        finished, self._profile = self._profile, None
        finished.stop()
        self._folder.mkdir(parents=True, exist_ok=True)
        finished.export_chrome_trace(str(self._folder / f"steps-{self._first}-{number}.json.gz"))
        share = communication_share(finished.events() or ())
        self._found = {} if share is None else {"communication_share": share}


def communication_share(events: Iterable[Any]) -> float | None:
    """The part of the time between the first and the last event in which any event moves data between ranks; None: none does.

    What overlaps counts once. Communication that hides behind computation counts too.
    """
    spans = sorted((event.time_range.start, event.time_range.end, event.name.startswith(_COMMUNICATION)) for event in events)
    moving = [(start, end) for start, end, moves in spans if moves]
    if not moving:
        return None
    total, covered = 0.0, moving[0][0]
    for start, end in moving:
        total += max(0.0, end - max(start, covered))
        covered = max(covered, end)
    return float(total / (max(end for _, end, _ in spans) - spans[0][0]))
