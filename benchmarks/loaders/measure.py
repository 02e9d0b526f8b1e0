"""What a loader costs: it runs in a process of its own and is asked for volumes, a round at a time."""

from __future__ import annotations

import multiprocessing
import time
import traceback
from collections.abc import Callable, Iterator, Sequence, Sized
from dataclasses import dataclass
from multiprocessing.connection import Connection

import psutil
import torch

POLL_S = 0.02
QUIET_S = 0.4  # without CPU time in the whole process tree: the queues are full again

Loader = Callable[[], Iterator[Sized]]
"""Endless; the length of each item is its number of volumes."""


@dataclass(frozen=True)
class Cost:
    """Seconds of one round over the process tree, and volumes it delivered."""

    cpu: float
    wall: float
    volumes: int


@dataclass(frozen=True)
class Memory:
    """MiB of the process tree: proportional set size, and the part of it that is shared memory."""

    total: float
    shared: float


class Contestant:
    """A loader in its own process, whose queues are full between rounds; the first one warms it up."""

    def __init__(self, loader: Loader, device: str) -> None:
        """`loader` must be picklable: it is called in the new process, at the first round."""
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, loader, device))
        self._process.start()
        theirs.close()
        self._root = psutil.Process(self._process.pid)

    def imported(self) -> Memory:
        """Wait until all modules are imported; what the process holds then."""
        self._receive()
        return self.memory()

    def take(self, volumes: int) -> Cost:
        """Take at least this many volumes, then wait until the loader has prepared as many anew and rests.

        Raises:
            RuntimeError: the loader failed.
        """
        tree = self._tree()  # looked up once: a look at all processes takes milliseconds
        before, begin = _cpu(tree), time.perf_counter()
        self._pipe.send(volumes)
        taken = self._receive()
        last, changed = _cpu(tree), time.perf_counter()
        while time.perf_counter() - changed < QUIET_S:
            time.sleep(POLL_S)
            if (now := _cpu(tree)) > last:
                last, changed = now, time.perf_counter()
        return Cost(last - before, changed - begin, taken)

    def memory(self) -> Memory:
        """What the process tree holds now."""
        total = shared = 0.0
        for process in self._tree():
            fields = dict(_kib_fields(f"/proc/{process.pid}/smaps_rollup"))
            total += fields["Pss"] / 1024
            shared += fields["Pss_Shmem"] / 1024
        return Memory(total, shared)

    def close(self) -> None:
        """End the process and its workers."""
        for process in reversed(self._tree()):
            process.kill()
        self._process.join()

    def _receive(self) -> int:
        while not self._pipe.poll(POLL_S):
            if not self._process.is_alive():
                raise RuntimeError(f"the loader's process ended with exit code {self._process.exitcode}")
        answer = self._pipe.recv()
        if isinstance(answer, str):
            raise RuntimeError(answer)
        return int(answer)

    def _tree(self) -> list[psutil.Process]:
        return [self._root, *self._root.children(recursive=True)]


def _cpu(tree: Sequence[psutil.Process]) -> float:
    """Seconds of user and system time, with that of children which have ended."""
    return sum(sum(process.cpu_times()[:4]) for process in tree)


def _kib_fields(path: str) -> Iterator[tuple[str, float]]:
    with open(path) as file:
        for line in file:
            words = line.split()
            if words[-1] == "kB":
                yield words[0].rstrip(":"), float(words[1])


def _serve(pipe: Connection, loader: Loader, device: str) -> None:
    """The loop of a contestant's process: sends 0 at the start, then for each number of volumes what was delivered."""
    torch.set_num_threads(1)
    pipe.send(0)
    batches: Iterator[Sized] | None = None
    try:
        while True:
            wanted, taken = pipe.recv(), 0
            if batches is None:
                batches = loader()
            while taken < wanted:
                batch = next(batches)
                if isinstance(batch, torch.Tensor):
                    batch = batch.to(device)
                taken += len(batch)
            if device == "cuda":
                torch.cuda.synchronize()
            pipe.send(taken)
    except EOFError:
        return
    except Exception:
        pipe.send(traceback.format_exc())
