"""The table of faults: how it counts what was lost, and some of its faults for real."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")


@pytest.mark.parametrize(
    ("logged", "published", "damaged", "again", "beyond"),
    [
        ([1, 2, 3, 4, 5, 6], [(3.5, 3)], False, 0, 0),
        ([1, 2, 3, 4, 5, 4, 5, 6], [(3.5, 3)], False, 2, 0),
        ([1, 2, 3, 4, 1, 2, 3, 4], [], False, 4, 0),
        ([1, 2, 3, 4, 5, 3, 4, 5], [(3.5, 3)], False, 3, 1),  # the checkpoint of step 3 was passed over
        ([1, 2, 3, 4, 5, 1, 2, 3], [(2.5, 2), (4.5, 4)], False, 5, 4),
        ([1, 2, 3, 4, 5, 3, 4, 5], [(2.5, 2), (4.5, 4)], True, 3, 0),  # that of step 4 was spoiled by us
    ],
)
def test_steps_done_again_and_lost_are_counted(tmp_path, logged, published, damaged, again, beyond):
    from fault_injection.outcome import repeated
    from fault_injection.progress import Progress

    progress = Progress(tmp_path)
    progress.logged = [(float(number), step) for number, step in enumerate(logged, 1)]
    progress.published = published
    assert repeated(progress, damaged) == (again, beyond)


def test_there_is_each_fault_that_is_promised():
    from fault_injection.faults import FAULTS

    names = " ".join(fault.name for fault in FAULTS)
    promised = ("rank", "launcher", "reading", "writer", "SIGTERM", "stopped", "power", "disk", "damaged", "network", "shard")
    assert [word for word in promised if word not in names] == []
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)


@pytest.mark.slow
@pytest.mark.end_to_end
def test_some_faults_for_real(tmp_path):
    names = ["kill -9 of a launcher", "kill -9 of a checkpoint writer", "newest checkpoint damaged", "a shard goes bad"]
    words = ["--out", tmp_path, "--steps", "8", "--every", "2", "--seeds", "7", "--only", *names]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "faults.py", *words],
        env=environment,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    outcomes = [json.loads(line) for line in (tmp_path / "faults-8-2" / "outcomes.jsonl").read_text().splitlines()]
    assert [outcome["fault"] for outcome in outcomes] == names
    for outcome in outcomes:
        assert outcome["equal"], outcome
        assert outcome["beyond"] == 0, outcome
