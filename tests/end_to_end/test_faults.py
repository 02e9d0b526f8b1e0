"""The real `deepspeed` command over a corpus that breaks while it trains."""

import os
import re
import shutil
import signal
from pathlib import Path

import pytest

from mri_fm.data.corpus import Corpus
from mri_fm.errors import EXIT_RESUMABLE, EXIT_USER_ERROR
from mri_fm.observe.recorder import read_metrics
from tests.distributed import free_port
from tests.end_to_end.commands import DEEPSPEED, SMALL, finish, start, wait_for_step

pytestmark = [pytest.mark.end_to_end, pytest.mark.slow]


@pytest.fixture
def own_corpus(corpus: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(corpus, tmp_path / "own"))


def train_command(corpus: Path, run_dir: Path, *words: str) -> list[str]:
    launcher = [DEEPSPEED, "--num_gpus", "2", "--master_port", str(free_port())]
    places = [f"data.corpus={corpus}", f"run.dir={run_dir}", "train.steps=100000", "checkpoint.every=5"]
    return [*launcher, "train.py", "--objective", "jepa_vcr", *places, *SMALL, *words]


def shards(corpus: Path) -> set[Path]:
    return {Path(sample.shard) for sample in Corpus.open(corpus).select("train")}


def the_error(output: str) -> str:
    (line,) = [line for line in output.splitlines() if "error: " in line]
    assert "Traceback" not in output
    return line


@pytest.mark.parametrize("workers", [0, 2])
def test_shards_that_rot_stop_all_ranks_with_the_list_and_exit_code_2(own_corpus, tmp_path, workers):
    words = ("data.skip_budget=3", f"data.workers={workers}")
    process = start(train_command(own_corpus, tmp_path / "run", *words), tmp_path / "log")
    wait_for_step(process, tmp_path / "run", 2)
    for sample in Corpus.open(own_corpus).select("train")[:3]:
        with Path(sample.shard).open("r+b") as file:
            file.seek(sample.offset)
            file.write(b"\xff" * 64)
    code, output = finish(process, tmp_path / "log")
    assert code == EXIT_USER_ERROR, output
    counted = re.search(r"error: (\d+) bad samples exceed data.skip_budget=3: (.*); repair", the_error(output))
    assert counted, output
    assert len(re.findall(r"position \d+: skipped", output)) == int(counted[1]) > 3
    assert "checksum" in counted[2]
    assert read_metrics(tmp_path / "run")[-1]["skips"] <= 3


def test_shards_that_vanish_leave_nothing_to_serve(own_corpus, tmp_path):
    process = start(train_command(own_corpus, tmp_path / "run", "data.skip_budget=999"), tmp_path / "log")
    wait_for_step(process, tmp_path / "run", 2)
    for shard in shards(own_corpus):
        os.truncate(shard, 0)
    code, output = finish(process, tmp_path / "log")
    assert code == EXIT_USER_ERROR, output
    assert "no readable sample to serve" in the_error(output)


def test_a_worker_that_is_killed_does_not_stop_the_run(own_corpus, tmp_path):
    words = ("train.steps=12", "data.workers=2")
    process = start(train_command(own_corpus, tmp_path / "run", *words), tmp_path / "log")
    wait_for_step(process, tmp_path / "run", 2)
    (rank, *_) = re.findall(r"process (\d+) spawned", (tmp_path / "log").read_text())
    workers = Path(f"/proc/{rank}/task/{rank}/children").read_text().split()
    assert len(workers) == 2
    os.kill(int(workers[0]), signal.SIGKILL)
    code, output = finish(process, tmp_path / "log")
    assert code == 0, output
    assert f"worker 1 (pid {workers[0]}) died (signal 9)" in output
    assert [record["step"] for record in read_metrics(tmp_path / "run")] == list(range(1, 13))


@pytest.mark.parametrize("number", [0, 1])
def test_a_stopped_rank_ends_the_job_resumable(own_corpus, tmp_path, number):
    process = start(train_command(own_corpus, tmp_path / "run", "data.timeout_s=5"), tmp_path / "log")
    wait_for_step(process, tmp_path / "run", 2)
    ranks = re.findall(r"process (\d+) spawned", (tmp_path / "log").read_text())
    os.kill(int(ranks[number]), signal.SIGSTOP)
    code, output = finish(process, tmp_path / "log")
    assert code == EXIT_RESUMABLE, output
    assert f"nothing has been heard of rank {number} for 5 s" in the_error(output)
