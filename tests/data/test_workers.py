"""Real worker processes: killed, stopped, blocked in a read, and left by their parent."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from random import Random
from threading import Thread, Timer

import pytest
import torch

from mri_fm.config import DataConfig
from mri_fm.data.corpus import Corpus
from mri_fm.data.loader import Batch, TrainLoader
from mri_fm.data.workers import Activity, process_state
from mri_fm.errors import EXIT_RESUMABLE, ResumableError

CPU = torch.device("cpu")
BLOCKED = "train-000001.tar"


def loader(root: Path, *, workers: int, timeout_s: float = 300.0, rank: int = 0, world: int = 1, **changes) -> TrainLoader:
    corpus = Corpus.open(root)
    config = DataConfig(corpus="unused", size=[8, 16, 16], workers=workers, timeout_s=timeout_s, skip_budget=99)
    layout = {"seed": 1, "global_batch": 4, "accumulation": 1, "device": CPU} | changes
    return TrainLoader(corpus, corpus.select("train"), config, rank=rank, world=world, **layout)


def stream(batches: Sequence[Batch]) -> list[tuple[int, str, bytes]]:
    return [
        (position, key, x.numpy().tobytes())
        for batch in batches
        for position, key, x in zip(batch.positions_B.tolist(), batch.keys, batch.x_BCZYX, strict=True)
    ]


def take(source: TrainLoader, count: int) -> list[tuple[int, str, bytes]]:
    try:
        return stream(list(islice(source, count)))
    finally:
        source.close()


def worker_pids(source: TrainLoader) -> list[int]:
    return [process.pid for process in source._batches._feed._workers.processes]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def ended(pid: int) -> bool:
    return process_state(pid) in "XZ"


def block(root: Path) -> bytes:
    """Put a FIFO that nobody writes to in the place of a shard, so that opening it blocks; returns what the shard held."""
    shard = root / "shards" / BLOCKED
    content = shard.read_bytes()
    shard.unlink()
    os.mkfifo(shard)
    return content


def unblock(root: Path, content: bytes) -> None:
    """Put the shard back; who waits for the FIFO goes on waiting."""
    shard = root / "shards" / BLOCKED
    shard.unlink()
    shard.write_bytes(content)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_workers_do_not_change_the_stream(ellipsoids: Path, workers: int) -> None:
    expected = take(loader(ellipsoids, workers=0, start_step=2), 4)
    assert take(loader(ellipsoids, workers=workers, start_step=2), 4) == expected
    source = loader(ellipsoids, workers=workers)
    source.seek(2)  # the workers are there by now
    assert take(source, 4) == expected


@pytest.mark.parametrize("batches", [0, 1])
def test_a_closed_loader_leaves_no_workers(ellipsoids: Path, batches: int) -> None:
    source = loader(ellipsoids, workers=2)
    assert len(list(islice(source, batches))) == batches
    pids = worker_pids(source)
    assert len(pids) == 2
    os.kill(pids[1], signal.SIGSTOP)
    source.close()
    assert all(map(ended, pids))


# Not settled: beside busy tests the rank, here pytest itself, has been lost with a worker killed before the first batch.
@pytest.mark.parametrize("moment", ["idle", pytest.param("before the first batch", marks=pytest.mark.slow)])
def test_a_killed_worker_is_named_and_replaced_without_a_gap(ellipsoids: Path, moment: str, caplog) -> None:
    expected = take(loader(ellipsoids, workers=0), 6)
    source = loader(ellipsoids, workers=2)
    got = stream(list(islice(source, 0 if moment == "before the first batch" else 2)))
    victim = worker_pids(source)[0]
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: ended(victim))
    got += take(source, 6 - len(got) // 4)
    assert got == expected
    (record,) = caplog.records
    assert f"worker 1 (pid {victim}) died (signal 9)" in record.getMessage()
    assert "going on without workers" in record.getMessage()


@pytest.mark.parametrize("killed", [True, False])
def test_a_worker_that_dies_or_blocks_in_a_read_is_named_with_what_it_read(
    own_ellipsoids: Path, killed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    expected = take(loader(own_ellipsoids, workers=0), 6)
    source = loader(own_ellipsoids, workers=2, timeout_s=300.0 if killed else 5.0)
    feed = source._batches._feed
    activity = feed._source.activity
    content = block(own_ellipsoids)

    def blocked() -> list[int]:
        """Workers that sleep in the shard that blocks; one that merely waits for a processor is runnable."""
        return [
            number
            for number in activity.busy()
            if BLOCKED in feed._source.describe(int(activity.rows[number]["position"]), int(activity.rows[number]["sample"]))
            and process_state(int(activity.rows[number]["pid"])) == "S"
        ]

    def mend_the_storage() -> None:
        wait_until(lambda: len(blocked()) > 0 and time.monotonic() - activity.last_sign() > 0.3)
        reader = blocked()[0]
        unblock(own_ellipsoids, content)
        if killed:
            os.kill(int(activity.rows[reader]["pid"]), signal.SIGKILL)

    thread = Thread(target=mend_the_storage)
    thread.start()
    got = take(source, 6)
    thread.join()
    assert got == expected
    (record,) = caplog.records
    assert ("died (signal 9) while reading vol00" if killed else "has been reading vol00") in record.getMessage()
    assert f"in {BLOCKED} at position" in record.getMessage()
    assert "going on without workers" in record.getMessage()


@pytest.mark.parametrize("number", [0, 1])
def test_a_stopped_worker_is_noticed_and_replaced(ellipsoids: Path, number: int, caplog) -> None:
    expected = take(loader(ellipsoids, workers=0), 8)
    source = loader(ellipsoids, workers=2, timeout_s=4.0)
    got = stream(list(islice(source, 2)))
    victim = worker_pids(source)[number]
    os.kill(victim, signal.SIGSTOP)
    wait_until(lambda: process_state(victim) == "T")
    got += take(source, 6)
    assert got == expected
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) <= 1  # a worker that was stopped with nothing to do may not be missed
    assert all(f"(pid {victim})" in message for message in messages)


def deliver_under_a_signal(root: Path, trial: int) -> None:
    """End with 0 if the stream is what it would have been."""
    draw = Random(trial)
    number = draw.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP])
    source = loader(root, workers=1 + trial % 2, timeout_s=10.0)
    expected = take(loader(root, workers=0), 30)
    got = stream(list(islice(source, 1)))
    timer = Timer(draw.uniform(0, 0.3), os.kill, (draw.choice(worker_pids(source)), number))
    timer.start()
    for batch in islice(source, 29):
        got += stream([batch])
        time.sleep(0.005)
    timer.join()
    source.close()
    os._exit(0 if got == expected else 1)


@pytest.mark.slow
@pytest.mark.parametrize("trial", range(12))
def test_a_signal_at_any_moment_leaves_the_stream_whole_or_ends_the_rank(ellipsoids: Path, trial: int) -> None:
    """SIGTERM is what a scheduler sends to all processes of a job. DALI alone may hang then, or lose and repeat samples."""
    rank = multiprocessing.get_context("fork").Process(target=deliver_under_a_signal, args=(ellipsoids, trial))
    rank.start()
    rank.join(240)
    code = rank.exitcode
    rank.kill()
    assert code in (0, EXIT_RESUMABLE)


def test_workers_die_with_a_parent_that_is_killed(ellipsoids: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from tests.data.test_workers import loader, worker_pids\n"
        f"source = loader(Path({str(ellipsoids)!r}), workers=2)\n"
        "print(*worker_pids(source), flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
    assert parent.stdout is not None
    pids = [int(word) for word in parent.stdout.readline().split()]
    assert len(pids) == 2
    assert not any(map(ended, pids))
    parent.kill()
    parent.wait()
    parent.stdout.close()
    wait_until(lambda: all(map(ended, pids)))


GPU = """
import sys
from itertools import islice
from pathlib import Path
import os, signal, torch
from mri_fm.config import DataConfig
from mri_fm.data.corpus import Corpus
from mri_fm.data.loader import TrainLoader
from tests.data.test_workers import ended, wait_until, worker_pids
corpus = Corpus.open(sys.argv[1])
config = DataConfig(corpus="unused", size=[8, 16, 16], workers=2, device="gpu")
layout = {"seed": 1, "global_batch": 4, "accumulation": 1, "rank": 0, "world": 1, "device": torch.device("cuda", 0)}
source = TrainLoader(corpus, corpus.select("train"), config, **layout)
torch.zeros(1).cuda()
keys = [batch.keys for batch in islice(source, 2)]
os.kill(worker_pids(source)[0], signal.SIGKILL)
wait_until(lambda: ended(worker_pids(source)[0]))
keys += [batch.keys for batch in islice(source, 2)]
source.close()
print(keys)
"""


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_workers_forked_before_cuda_feed_the_gpu_and_can_be_done_without(ellipsoids: Path) -> None:
    """In a process of its own, since here CUDA may be in use already."""
    command = [sys.executable, "-c", GPU, str(ellipsoids)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    source = loader(ellipsoids, workers=0)
    assert done.stdout.strip() == str([batch.keys for batch in islice(source, 4)])
    source.close()
    assert "going on without workers" in done.stderr


def test_a_loader_that_has_begun_cannot_begin_elsewhere(ellipsoids: Path) -> None:
    source = loader(ellipsoids, workers=0)
    next(source)
    with pytest.raises(RuntimeError, match="cannot start elsewhere"):
        source.seek(3)
    source.close()


def test_a_failed_feed_is_not_asked_again(ellipsoids: Path) -> None:
    source = loader(ellipsoids, workers=0)
    feed = source._batches._feed
    feed.close()
    with pytest.raises(ResumableError, match="not asked again"):
        next(source)


def test_a_second_failure_is_the_last(ellipsoids: Path) -> None:
    source = loader(ellipsoids, workers=2)
    next(source)
    feed = source._batches._feed

    def fail(number: int) -> None:
        raise RuntimeError("a second failure")

    feed._source.fetch = fail  # in this process, after the worker was forked
    victim = worker_pids(source)[0]
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: ended(victim))
    with pytest.raises(RuntimeError, match="a second failure"):
        list(islice(source, 9))
    with pytest.raises(ResumableError, match="not asked again"):
        next(source)


STUCK = """
import sys
from pathlib import Path
from tests.data.test_workers import block, loader, take
root = Path(sys.argv[1])
source = loader(root, workers=int(sys.argv[2]), timeout_s=3.0)
block(root)
take(source, 9)
"""


@pytest.mark.parametrize("workers", [0, 2])
def test_a_read_that_never_comes_back_ends_the_rank_with_one_line(own_ellipsoids: Path, workers: int) -> None:
    """With workers they are ended first; the same read then blocks the rank itself."""
    command = [sys.executable, "-c", STUCK, str(own_ellipsoids), str(workers)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=600)
    assert done.returncode == EXIT_RESUMABLE, done.stderr
    lines = [line for line in done.stderr.splitlines() if "position" in line]
    assert lines[-1].startswith("error: the loader (pid ")
    assert f"in {BLOCKED} at position" in lines[-1]
    assert "s (data.timeout_s=3)" in lines[-1]
    assert len(lines) == (2 if workers else 1)
    if workers:
        assert "worker" in lines[0]
        assert "going on without workers" in lines[0]
    assert "Traceback" not in done.stderr


def test_each_row_of_activity_has_one_writer(tmp_path: Path) -> None:
    activity = Activity(workers=2)
    with activity.reading(position=7, sample=3):
        assert activity.busy() == [0]
        assert int(activity.rows[0]["sample"]) == 3
    assert activity.busy() == []
    with activity.forking():
        children = [os.fork() for _ in range(2)]
        if 0 in children:
            with activity.reading(position=len(children), sample=1):
                time.sleep(600)
    wait_until(lambda: activity.busy() == [1, 2])
    assert [int(pid) for pid in activity.rows["pid"]] == [os.getpid(), *children]
    for pid in children:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
