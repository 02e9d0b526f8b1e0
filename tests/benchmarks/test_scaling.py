"""The benchmark of weak scaling: its sums, and one contestant for real."""

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


def test_ratios_are_of_the_same_round():
    from scaling import Match, row

    match = Match(mine=[(1.1, 9.0), (2.4, 9.0), (5.0, 9.0)], ddp=[(1.0, 9.0), (2.0, 9.0), (5.0, 9.0)])
    assert match.ratio() == pytest.approx(1.1)
    assert row("x", {1: match, 2: match}) == "| x | 2.40 | 9.00 | 1.10 | 2.40 | 9.00 | 1.10 | 1.00 |"
    assert row("x", {1: match}) == "| x | 2.40 | 9.00 | 1.10 |  |  |  |  |"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain torch", "ZeRO stage 0", "ZeRO stage 2"])
def test_a_contestant_and_ddp_take_turns(name):
    words = ["--model", "vit_tiny", "--size", "16", "16", "16", "--batch", "2", "--rounds", "2", "--as-rank", name]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MASTER_PORT": "0"}
    command = [sys.executable, ROOT / "benchmarks" / "scaling.py", *words]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    match = json.loads(done.stdout.splitlines()[-1])
    assert len(match["mine"]) == len(match["ddp"]) == 2
    assert all(cpu > 0 and wall > 0 for cpu, wall in match["mine"] + match["ddp"])
