"""Real processes that fail, hang and stop beside one another, with a real store."""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from mri_fm.data.watchdog import end_process
from mri_fm.engine import peers
from mri_fm.engine.environment import Environment
from mri_fm.engine.peers import Heartbeats, Peers
from mri_fm.errors import EXIT_RESUMABLE, EXIT_USER_ERROR, ResumableError, UserError
from tests.distributed import free_port

Work = Callable[[int], None]
TIMEOUT_S = 300.0


class Rank(NamedTuple):
    """A forked rank and what it wrote."""

    process: BaseProcess
    log: Path

    def end(self) -> tuple[int | None, list[str]]:
        """Its exit code and lines."""
        self.process.join(TIMEOUT_S)
        return self.process.exitcode, self.log.read_text().splitlines()


def meet() -> None:
    torch.distributed.all_reduce(torch.zeros(1))


def run_rank(rank: int, world: int, port: int, log: Path, work: Work, timeout_s: float) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE=str(world), RANK=str(rank))
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.distributed.init_process_group("gloo")
    with Peers(Environment(rank, world, rank, world), timeout_s):
        meet()
        print("met", flush=True)
        work(rank)


@pytest.fixture
def start_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., list[Rank]]]:
    monkeypatch.setattr(peers, "_ANSWER_S", 60.0)  # however busy the machine is
    started: list[Rank] = []

    def start(work: Work, world: int = 3, timeout_s: float = TIMEOUT_S) -> list[Rank]:
        port = free_port()
        for rank in range(world):
            log = tmp_path / f"rank-{rank}"
            arguments = (rank, world, port, log, work, timeout_s)
            process = multiprocessing.get_context("fork").Process(target=run_rank, args=arguments)
            process.start()
            started.append(Rank(process, log))
        return started

    yield start
    for rank in started:
        rank.process.kill()
        rank.process.join()


def ends(ranks: list[Rank]) -> tuple[list[int | None], list[str]]:
    """Exit codes, and what all ranks have written."""
    codes, lines = zip(*[rank.end() for rank in ranks], strict=True)
    return list(codes), [line for written in lines for line in written if line != "met"]


def failing(rank: int, error: Exception) -> Work:
    """`rank` raises, the others wait for it in a collective."""

    def work(mine: int) -> None:
        if mine == rank:
            raise error
        meet()

    return work


def blocking(mine: int) -> None:
    """Rank 2's loader is ended by its watchdog, the others are busy elsewhere."""
    if mine == 2:
        end_process("worker 1 blocks")
    time.sleep(TIMEOUT_S)


def failing_all(mine: int) -> None:
    raise UserError("the value of x")


HOST = os.uname().nodename
MISTAKE = UserError("the value of x")
FAILURES: dict[str, tuple[Work, int, str]] = {
    "one rank's mistake": (failing(1, MISTAKE), EXIT_USER_ERROR, f"rank 1 on {HOST}: the value of x"),
    "rank 0's storage": (failing(0, ResumableError("a storage")), EXIT_RESUMABLE, "a storage"),
    "the mistake of all": (failing_all, EXIT_USER_ERROR, "the value of x"),
    "a read that blocks": (blocking, EXIT_RESUMABLE, f"rank 2 on {HOST}: worker 1 blocks; the same command resumes"),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_all_ranks_end_with_one_line_and_one_code(start_ranks, failure: str, monkeypatch: pytest.MonkeyPatch) -> None:
    work, code, line = FAILURES[failure]
    if work is failing_all:
        monkeypatch.setattr(peers, "_GRACE_S", 60.0)  # rank 0 may come to its mistake long after the others
    codes, lines = ends(start_ranks(work))
    assert codes == [code] * 3, lines
    assert lines == [f"error: {line}"]


def test_a_bug_on_one_rank_shows_one_traceback(start_ranks) -> None:
    codes, lines = ends(start_ranks(failing(1, KeyError("x"))))
    assert codes == [1] * 3, lines
    assert sum(line.startswith("Traceback") for line in lines) == 1
    assert lines[0] == f"error: rank 1 on {HOST}: KeyError, see its traceback"
    assert lines[-1] == "KeyError: 'x'"


@pytest.mark.parametrize("stopped", [0, 1])
def test_a_stopped_rank_is_named(start_ranks, stopped: int) -> None:
    ranks = start_ranks(lambda rank: time.sleep(TIMEOUT_S), world=2, timeout_s=5.0)
    deadline = time.monotonic() + TIMEOUT_S
    while not all(rank.log.exists() and rank.log.read_text() for rank in ranks):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(ranks[stopped].process.pid, signal.SIGSTOP)
    code, lines = ranks[1 - stopped].end()
    assert code == EXIT_RESUMABLE, lines
    (line,) = lines[1:]
    assert line.startswith(f"error: nothing has been heard of rank {stopped} for 5 s (data.timeout_s)")


@pytest.mark.parametrize("slower", [0, 1])
def test_ranks_that_finish_at_different_times_are_not_missed(start_ranks, slower: int) -> None:
    codes, lines = ends(start_ranks(lambda rank: time.sleep(7.0 * (rank == slower)), world=2, timeout_s=4.0))
    assert codes == [0, 0], lines
    assert not lines


def test_a_heartbeat_is_a_change() -> None:
    heard = Heartbeats([1, 2], now=0.0)
    heard.note(1, "1", now=5.0)
    heard.note(1, "1", now=9.0)
    assert heard.silent(now=6.0, timeout_s=5.0) == [2]
    assert heard.silent(now=11.0, timeout_s=5.0) == [1, 2]
    heard.note(2, "done", now=12.0)
    assert heard.silent(now=99.0, timeout_s=5.0) == [1]
