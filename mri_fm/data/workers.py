"""The loader's worker processes: what each is doing, and that none outlives its rank.

DALI forks them and keeps them to itself. Beside the few lines of `Workers`, nothing here or elsewhere knows its inside.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

_ROW = np.dtype([("pid", "<i8"), ("since", "<f8"), ("position", "<i8"), ("sample", "<i8")])
_IDLE = -1
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)  # loaded before any fork
_GRACE_S = 2.0


class Activity:
    """What a rank and its workers are reading, in memory that they share; row 0 is the rank itself, row w its worker w.

    Each row has one writer, so there is nothing to lock and nothing that a killed process could leave locked.
    """

    def __init__(self, workers: int) -> None:
        """Rows for a rank with `workers` worker processes, still to be forked."""
        head = np.dtype("<i8").itemsize
        self._memory = mmap.mmap(-1, head + (workers + 1) * _ROW.itemsize)  # anonymous and shared with forked children
        self._first = np.frombuffer(self._memory, "<i8", count=1)
        self.rows = np.frombuffer(self._memory, _ROW, offset=head)
        self.rows["position"] = _IDLE
        self._mine, self._forked = 0, 0
        self.rows[0]["pid"] = os.getpid()

    @property
    def first(self) -> int:
        """The sample number that DALI's sample 0 stands for: set after the workers were forked, read by them."""
        return int(self._first[0])

    @first.setter
    def first(self, number: int) -> None:
        self._first[0] = number

    @contextmanager
    def reading(self, position: int, sample: int) -> Iterator[None]:
        """Note that this process reads sample number `sample` for `position`, and when it began and ended."""
        row = self.rows[self._mine]
        row["since"], row["sample"], row["position"] = time.monotonic(), sample, position
        try:
            yield
        finally:
            row["position"], row["since"] = _IDLE, time.monotonic()

    def touch(self) -> None:
        """Note that a long read goes on."""
        self.rows[self._mine]["since"] = time.monotonic()

    def last_sign(self) -> float:
        """When any row was last written, by the clock of `time.monotonic`, which processes share."""
        return float(self.rows["since"].max())

    def busy(self) -> list[int]:
        """The rows that are reading now."""
        return [number for number, row in enumerate(self.rows) if row["position"] != _IDLE]

    @contextmanager
    def forking(self) -> Iterator[None]:
        """While this lasts, the children that this process forks are its workers 1, 2, …: each takes its row."""
        global _forking
        _forking = self
        try:
            yield
        finally:
            _forking = None

    def _take_row(self) -> None:
        self._mine = self._forked
        self.rows[self._mine]["pid"] = os.getpid()


_forking: Activity | None = None


def _count_child() -> None:
    if _forking is not None:
        _forking._forked += 1


def _become_worker() -> None:
    """In the child: die with the parent, and leave it to the parent to answer signals meant for the job."""
    if _forking is None:
        return
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(_forking.rows[0]["pid"]):  # it died before prctl
        os._exit(1)
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _forking._take_row()


os.register_at_fork(before=_count_child, after_in_child=_become_worker)


class Workers:
    """The worker processes of a DALI pipeline, which are ended here rather than by DALI.

    DALI's own farewell takes locks that a dead or stopped worker may hold, and waits without a limit.
    """

    def __init__(self, pipeline: Any = None) -> None:
        """Those of a pipeline whose workers have been started; none where it has none."""
        self._pool = pipeline._py_pool.pool if pipeline is not None and pipeline._py_pool is not None else None
        self.processes = list(self._pool._processes) if self._pool is not None else []
        self._asking = threading.Lock()

    def dead(self) -> list[tuple[int, int]]:
        """(number from 1, exit code; minus the signal) of each that has ended."""
        with self._asking:  # of two threads that ask at once, one is told by `waitpid` that there is no such child
            codes = [process.exitcode for process in self.processes]
        return [(number, code) for number, code in enumerate(codes, 1) if code is not None]

    def kill(self) -> None:
        """SIGKILL to all: it also ends stopped ones, and they hold nothing that needs saving."""
        for process in self.processes:
            if process.exitcode is None:
                process.kill()

    def discard(self) -> None:
        """End them, and keep DALI from waiting for them when the pipeline goes."""
        self.kill()
        if self._pool is not None:
            self._pool._observer = None
        for process in self.processes:
            process.join(_GRACE_S)


def process_state(pid: int) -> str:
    """The kernel's word for what a process does, for instance R running, S sleeping, D waiting for a device, T stopped."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0]
    except OSError:
        return "X"
