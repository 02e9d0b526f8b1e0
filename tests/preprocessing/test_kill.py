"""Real kills: whatever process dies at whatever moment, the same command again ends in the same bytes."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from preprocessing.build import build
from preprocessing.report import draw_report
from tests.corpora import SPEC
from tests.preprocessing.test_build import contents, ledger

LIMIT_S = 900
OPTIONS = ("--val-fraction", "0.3", "--shard-bytes", "4e5")
KEY = "5" * 64


def start(raw: Path, out: Path, *options: str) -> subprocess.Popen[str]:
    """The build in a process group of its own."""
    key = out.parent / "key"
    key.write_text(KEY)
    command = [sys.executable, "-m", "preprocessing.build_shards", "--raw", raw, "--out", out, "--key", key, *OPTIONS, *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)


def finish(process: subprocess.Popen[str]) -> None:
    output, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, output


def kill_after(process: subprocess.Popen[str], seconds: float, victim: int) -> None:
    """Send SIGKILL to `victim` after a while, if the build is still running by then."""
    end = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    if process.poll() is None:
        os.kill(victim, signal.SIGKILL)


def kill_once_it_writes(process: subprocess.Popen[str], out: Path) -> None:
    """Send SIGKILL when the first image of the archive stands, in the middle of the second pass."""
    end = time.monotonic() + LIMIT_S
    while process.poll() is None and not list(out.glob("volumes.zarr/*/zarr.json")):
        assert time.monotonic() < end
        time.sleep(0.005)
    process.kill()
    process.communicate()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    build(corpus.parent / "raw", folder / "corpus", SPEC, report=draw_report)
    return folder / "corpus"


def test_killed_while_it_writes(tmp_path: Path, corpus: Path, undisturbed: Path) -> None:
    process = start(corpus.parent / "raw", tmp_path / "corpus", "--workers", "1")
    kill_once_it_writes(process, tmp_path / "corpus")
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "corpus/corpus.json").exists()
    build(corpus.parent / "raw", tmp_path / "corpus", SPEC, report=draw_report)
    assert contents(tmp_path / "corpus") == contents(undisturbed)
    assert ledger(tmp_path / "corpus") == ledger(undisturbed)
    assert not (tmp_path / "corpus/private/scratch").exists()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_killed_again_and_again(tmp_path: Path, corpus: Path, undisturbed: Path, seed: int) -> None:
    """The driver of a local cluster, or one of its workers, at random moments."""
    rng = random.Random(seed)
    for _ in range(6):
        process = start(corpus.parent / "raw", tmp_path / "corpus", "--workers", "2")
        time.sleep(rng.uniform(2, 9))
        children = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
        kill_after(process, 0, rng.choice([process.pid, *children]))
        if process.poll() is None and rng.random() < 0.5:
            kill_after(process, rng.uniform(0, 4), process.pid)
        process.communicate(timeout=LIMIT_S)
    finish(start(corpus.parent / "raw", tmp_path / "corpus", "--workers", "2"))
    assert contents(tmp_path / "corpus") == contents(undisturbed)
    assert ledger(tmp_path / "corpus") == ledger(undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_killed_on_a_cluster(tmp_path: Path, corpus: Path, undisturbed: Path, seed: int) -> None:
    """Driver, scheduler or a worker of a cluster of real processes; whatever is dead is started again."""
    rng = random.Random(seed)
    for _ in range(4):
        with dask_cluster(tmp_path) as (address, processes):
            build = start(corpus.parent / "raw", tmp_path / "corpus", "--scheduler", address)
            time.sleep(rng.uniform(3, 8))
            kill_after(build, 0, rng.choice([build.pid, *(process.pid for process in processes)]))
            output, _ = build.communicate(timeout=LIMIT_S)
            assert build.returncode in (0, 75, -signal.SIGKILL), output
    finish(start(corpus.parent / "raw", tmp_path / "corpus", "--workers", "1"))
    assert contents(tmp_path / "corpus") == contents(undisturbed)


@contextmanager
def dask_cluster(folder: Path) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """A scheduler and two workers, each a command of its own; (address, processes)."""
    about = folder / "scheduler.json"
    about.unlink(missing_ok=True)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": os.getcwd()}
    scheduler = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--port", "0", "--no-dashboard"]
    worker = [sys.executable, "-m", "distributed.cli.dask_worker", "--nthreads", "1", "--no-nanny", "--no-dashboard"]
    processes = [subprocess.Popen([*scheduler, "--scheduler-file", about], **quiet)]  # type: ignore[call-overload]
    end = time.monotonic() + LIMIT_S
    while not about.is_file() or not about.read_text():
        assert time.monotonic() < end
        time.sleep(0.05)
    address = json.loads(about.read_text())["address"]
    processes += [subprocess.Popen([*worker, address, "--local-directory", folder], **quiet) for _ in range(2)]  # type: ignore[call-overload]
    try:
        yield address, processes
    finally:
        for process in processes:
            process.kill()
            process.wait()
