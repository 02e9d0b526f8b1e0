"""How fast a run is: volumes per second, waits, and the share of the hardware's peak (MFU)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

PEAK_BF16_FLOPS = {"H100 PCIe": 756e12, "H100": 989e12, "H200": 989e12, "B200": 2250e12, "A100": 312e12, "L40S": 362e12}
"""Dense bf16 FLOP/s by a part of the device's name, most specific first (vendor data sheets)."""


def peak_flops(device: torch.device) -> float | None:
    """The device's dense bf16 peak, or None where it is not in the table (a CPU, an unknown GPU)."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAK_BF16_FLOPS.items() if part in name), None)


class Meter:
    """Wall time and data wait since the last report, averaged over the steps between."""

    def __init__(self, global_batch: int, flops_per_volume: float, world: int, device: torch.device) -> None:
        """`flops_per_volume` is of forward and backward together."""
        self._batch, self._flops, self._world, self._peak = global_batch, flops_per_volume, world, peak_flops(device)
        self._start, self._steps, self._wait = time.perf_counter(), 0, 0.0

    def add_wait(self, seconds: float) -> None:
        """Count time that the step waited for its samples."""
        self._wait += seconds

    def add_step(self) -> None:
        """Count a finished step."""
        self._steps += 1

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out the time spent inside: checkpoints and monitoring are no part of a step."""
        start = time.perf_counter()
        yield
        self._start += time.perf_counter() - start

    def report(self) -> dict[str, float | None]:
        """Seconds per step, seconds of waiting per step, volumes per second, MFU (None without a known peak)."""
        now = time.perf_counter()
        step_time = (now - self._start) / self._steps
        rate = self._batch / step_time
        mfu = None if self._peak is None else rate * self._flops / (self._world * self._peak)
        values = {"step_time": step_time, "data_wait": self._wait / self._steps, "volumes_per_s": rate, "mfu": mfu}
        self._start, self._steps, self._wait = now, 0, 0.0
        return values
