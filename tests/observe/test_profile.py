import gzip
import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mri_fm.config import config_from_yaml, load_config, to_yaml
from mri_fm.errors import UserError
from mri_fm.observe.profile import StepProfiler, communication_share
from mri_fm.observe.recorder import read_metrics
from tests.engine.test_training import small_config, train

WORDS = ["data.corpus=C", "run.dir=R"]


@dataclass
class Event:
    name: str
    start: float
    end: float

    @property
    def time_range(self) -> Any:
        return SimpleNamespace(start=self.start, end=self.end)


def test_overlapping_communication_counts_once():
    events = [
        Event("gloo:all_reduce", 10, 30),
        Event("aten::mm", 0, 100),
        Event("ncclDevKernel_AllReduce_Sum", 20, 40),
        Event("gloo:all_gather", 25, 28),
        Event("ncclDevKernel_Broadcast", 90, 100),
    ]
    assert communication_share(events) == pytest.approx(0.4)
    assert communication_share(events[1:2]) is None


def test_steps_outside_the_window_are_not_profiled(tmp_path):
    profiler = StepProfiler(range(2, 4), tmp_path, torch.device("cpu"))
    for number in range(1, 6):
        with profiler.step(number):
            torch.full((number, 7), 1.0).sum()
    (trace,) = (tmp_path / "profile").iterdir()
    shapes = {tuple(event["args"]["Input Dims"][0]) for event in read_trace(trace) if event.get("name") == "aten::sum"}
    assert shapes == {(2, 7), (3, 7)}


def read_trace(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt") as file:
        return list(json.load(file)["traceEvents"])


def test_a_run_writes_a_trace_and_what_it_says_of_communication(corpus, tmp_path):
    config = small_config(corpus, tmp_path, "mae", "profile.steps=2:3", "checkpoint.every=9", "val.every=0")
    train(config, world=2)
    (trace,) = (tmp_path / "profile").iterdir()
    assert trace.name == "steps-2-3.json.gz"
    names = {str(event.get("name")) for event in read_trace(trace)}
    assert any(name.startswith("gloo:") for name in names)
    assert any("scaled_dot_product" in name for name in names)
    shares = {record["step"]: record.get("communication_share") for record in read_metrics(tmp_path)}
    assert {step for step, share in shares.items() if share is not None} == {3}
    assert 0 < shares[3] < 1


def test_the_words_are_not_read_as_a_number_of_base_60(tmp_path):
    config = load_config("mae", [*WORDS, "profile.steps=10:15"])
    assert list(config.profile.window()) == [10, 11, 12, 13, 14, 15]
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert config_from_yaml(tmp_path / "config.yaml").profile.steps == "10:15"


@pytest.mark.parametrize("steps", ["5", "0:3", "4:3", "a:b", "99:101"])
def test_a_window_that_cannot_be_is_refused(steps):
    with pytest.raises(UserError, match=r"profile\.steps"):
        load_config("mae", [*WORDS, f"profile.steps={steps}"])
