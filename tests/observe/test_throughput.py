import os
from pathlib import Path

import pytest
import torch

from mri_fm.observe import throughput
from mri_fm.observe.throughput import Meter, memory_peak, peak_flops


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves."""
    now = [100.0]
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: now[0])
    return now


def test_rates_are_means_over_the_steps_since_the_last_report(clock):
    meter = Meter(volumes=8, world=2, device=torch.device("cpu"))
    for _ in range(4):
        clock[0] += 0.5
        meter.add_wait(0.1)
        meter.add_step(1e12, 30)
    with meter.paused():
        clock[0] += 60
    report = meter.report()
    assert report == {
        "step_time": pytest.approx(0.5),
        "data_wait": pytest.approx(0.1),
        "volumes_per_s": pytest.approx(16),
        "tokens_per_s": pytest.approx(16 * 30),
        "tflops": pytest.approx(16 * 1 / 2),  # of one of two ranks
        "mfu": None,
        "memory_peak_gb": pytest.approx(report["memory_peak_gb"]),
    }
    clock[0] += 2
    meter.add_step(1e12, 30)
    assert meter.report()["step_time"] == pytest.approx(2)


def test_mfu_is_the_share_of_all_ranks_peak(clock, monkeypatch):
    monkeypatch.setattr(throughput, "peak_flops", lambda device: 1e12)
    meter = Meter(volumes=8, world=2, device=torch.device("cpu"))
    clock[0] += 3
    meter.add_step(1e11, 1)
    meter.add_step(2e11, 1)  # a larger input
    assert meter.report()["mfu"] == pytest.approx(8 * 3e11 / (3 * 2e12))
    clock[0] += 1
    meter.add_step(2e11, 1)
    assert meter.report()["mfu"] == pytest.approx(8 * 2e11 / 2e12)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA GB200", 2500e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A10G", 70e12),
        ("NVIDIA A10", 125e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA GeForce RTX 4090", 165.2e12),
        ("Tesla T4", None),
        ("unknown", None),
    ],
)
def test_the_peak_goes_by_the_devices_name(monkeypatch, name, peak):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert peak_flops(torch.device("cuda")) == peak
    assert peak_flops(torch.device("cpu")) is None


def test_the_memory_peak_of_a_cpu_is_at_least_what_is_resident():
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    assert 0.9 * resident < memory_peak(torch.device("cpu")) < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
