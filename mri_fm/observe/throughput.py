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

    def __init__(self, volumes: int, world: int, device: torch.device) -> None:
        """`volumes` is how many a step has over all ranks."""
        self._volumes, self._world, self._peak = volumes, world, peak_flops(device)
        self._start, self._steps, self._wait, self._flops = time.perf_counter(), 0, 0.0, 0.0

    def add_wait(self, seconds: float) -> None:
        """Count time that the step waited for its samples."""
        self._wait += seconds

    def add_step(self, flops_per_volume: float) -> None:
        """Count a finished step; `flops_per_volume` is of forward and backward together, at the size of this step."""
        self._steps += 1
        self._flops += flops_per_volume * self._volumes

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out the time spent inside: checkpoints and monitoring are no part of a step."""
        start = time.perf_counter()
        yield
        self._start += time.perf_counter() - start

    def report(self) -> dict[str, float | None]:
        """Seconds per step, seconds of waiting per step, volumes per second, MFU (None without a known peak)."""
        now = time.perf_counter()
        elapsed = now - self._start
        values = {
            "step_time": elapsed / self._steps,
            "data_wait": self._wait / self._steps,
            "volumes_per_s": self._volumes * self._steps / elapsed,
            "mfu": None if self._peak is None else self._flops / (elapsed * self._world * self._peak),
        }
        self._start, self._steps, self._wait, self._flops = now, 0, 0.0, 0.0
        return values
