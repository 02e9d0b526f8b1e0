"""How fast a run is: volumes and tokens per second, waits, memory, and the share of the hardware's peak (MFU)."""

from __future__ import annotations

import re
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

PEAK_BF16_FLOPS = {
    "GB200": 2500e12,
    "B200": 2250e12,
    "GH200": 989e12,
    "H200 NVL": 835e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H800": 989e12,
    "H20": 148e12,
    "A100": 312e12,
    "A800": 312e12,
    "A40": 149.7e12,
    "A30": 165e12,
    "A10G": 70e12,
    "A10": 125e12,
    "RTX A6000": 154.8e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "RTX 4090": 165.2e12,
    "RTX 3090": 71e12,
}
"""Dense bf16 FLOP/s by words of the device's name, most specific first (vendor data sheets, without sparsity)."""


def peak_flops(device: torch.device) -> float | None:
    """The device's dense bf16 peak, or None where it is not in the table (a CPU, an unknown GPU)."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for words, peak in PEAK_BF16_FLOPS.items() if re.search(rf"\b{words}\b", name)), None)


def memory_peak(device: torch.device) -> float:
    """Bytes at most so far: allocated by torch on a GPU, resident of this process on a CPU."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0  # Linux counts in KiB


class Meter:
    """Wall time and data wait since the last report, averaged over the steps between."""

    def __init__(self, volumes: int, world: int, device: torch.device) -> None:
        """`volumes` is how many a step has over all ranks."""
        self._volumes, self._world, self._device, self._peak = volumes, world, device, peak_flops(device)
        self._start, self._steps, self._wait, self._flops, self._tokens = time.perf_counter(), 0, 0.0, 0.0, 0

    def add_wait(self, seconds: float) -> None:
        """Count time that the step waited for its samples."""
        self._wait += seconds

    def add_step(self, flops_per_volume: float, tokens_per_volume: int) -> None:
        """Count a finished step, at the size of its volumes.

        Args:
            flops_per_volume: of forward and backward pass together, attention included; what is computed again to save memory
                does not count.
            tokens_per_volume: those that the token budget keeps.
        """
        self._steps += 1
        self._flops += flops_per_volume * self._volumes
        self._tokens += tokens_per_volume * self._volumes

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out the time spent inside: checkpoints and monitoring are no part of a step."""
        start = time.perf_counter()
        yield
        self._start += time.perf_counter() - start

    def report(self) -> dict[str, float | None]:
        """Means since the last report, and the memory's peak so far.

        Returns:
            step_time and data_wait (seconds per step), volumes_per_s and tokens_per_s (all ranks together), tflops (10^12
            FLOP/s of one rank), mfu (tflops over the device's peak; None where that is not known), memory_peak_gb (10^9 bytes,
            this rank's device).
        """
        now = time.perf_counter()
        elapsed = now - self._start
        rate = self._flops / (elapsed * self._world)
        values = {
            "step_time": elapsed / self._steps,
            "data_wait": self._wait / self._steps,
            "volumes_per_s": self._volumes * self._steps / elapsed,
            "tokens_per_s": self._tokens / elapsed,
            "tflops": rate / 1e12,
            "mfu": None if self._peak is None else rate / self._peak,
            "memory_peak_gb": memory_peak(self._device) / 1e9,
        }
        self._start, self._steps, self._wait, self._flops, self._tokens = now, 0, 0.0, 0.0, 0
        return values
