import pytest
import torch

from mri_fm.observe import throughput
from mri_fm.observe.throughput import Meter, peak_flops


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
        meter.add_step(1e12)
    with meter.paused():
        clock[0] += 60
    report = meter.report()
    assert report == {
        "step_time": pytest.approx(0.5),
        "data_wait": pytest.approx(0.1),
        "volumes_per_s": pytest.approx(16),
        "mfu": None,
    }
    clock[0] += 2
    meter.add_step(1e12)
    assert meter.report()["step_time"] == pytest.approx(2)


def test_mfu_is_the_share_of_all_ranks_peak(clock, monkeypatch):
    monkeypatch.setattr(throughput, "peak_flops", lambda device: 1e12)
    meter = Meter(volumes=8, world=2, device=torch.device("cpu"))
    clock[0] += 3
    meter.add_step(1e11)
    meter.add_step(2e11)  # a larger input
    assert meter.report()["mfu"] == pytest.approx(8 * 3e11 / (3 * 2e12))
    clock[0] += 1
    meter.add_step(2e11)
    assert meter.report()["mfu"] == pytest.approx(8 * 2e11 / 2e12)


def test_a_cpu_has_no_peak_and_the_more_specific_name_wins(monkeypatch):
    assert peak_flops(torch.device("cpu")) is None
    for name, peak in (("NVIDIA H100 PCIe", 756e12), ("NVIDIA H100 80GB HBM3", 989e12), ("unknown", None)):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device, name=name: name)
        assert peak_flops(torch.device("cuda")) == peak
