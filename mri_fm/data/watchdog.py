"""Notices what no exception tells: a worker that died, a read that blocks, a pipeline that gives nothing.

Two stages: the workers are ended, upon which DALI's `run` comes back with an exception; if it does not, or there are none, the
rank is ended, since nothing can interrupt a read on a dead mount.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mri_fm.data.workers import Activity, Workers, process_state
from mri_fm.errors import EXIT_RESUMABLE

_GRACE_S = 5.0
_LONGEST_PERIOD_S = 1.0
_STATES = {"D": "waits for a device", "T": "is stopped", "t": "is stopped", "Z": "has ended", "X": "has ended"}


def say(problem: str, code: int) -> None:
    """One line on stderr."""
    print(f"error: {problem}", file=sys.stderr, flush=True)


LAST_WORDS: list[Callable[[str, int], None]] = [say]
"""The last one is called with the problem and the exit code before a process ends; a job of several ranks adds its own."""


def end_process(problem: str) -> None:
    """End this process, from any thread, with one line and the exit code of a run that can be resumed."""
    LAST_WORDS[-1](f"{problem}; the same command resumes", EXIT_RESUMABLE)
    os._exit(EXIT_RESUMABLE)


class Watchdog:
    """A thread that looks at one pipeline's workers and at the time a rank waits for it."""

    def __init__(
        self,
        activity: Activity,
        workers: Workers,
        timeout_s: float,
        describe: Callable[[int, int], str],
    ) -> None:
        """Begin to watch.

        Args:
            activity: what each process reads.
            workers: the processes that stage one ends.
            timeout_s: how long a read, or a run of the pipeline without any sign of life, may last.
            describe: words for what is read, from the position and sample number of a row of `activity`.
        """
        self._activity, self._workers, self._timeout_s = activity, workers, timeout_s
        self._describe = describe
        self._waiting_since: float | None = None
        self._found: tuple[str, float] | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """The rank waits for the pipeline while this lasts."""
        self._waiting_since = time.monotonic()
        try:
            yield
        finally:
            self._waiting_since = None

    def problem(self, patience_s: float = 0.0) -> str | None:
        """What is wrong with the workers, None if nothing is; a death may take `patience_s` seconds to show."""
        deadline = time.monotonic() + patience_s
        while True:
            if self._found is not None:
                return self._found[0]
            problem = self._dead()
            if problem is not None or time.monotonic() >= deadline:
                return problem
            time.sleep(0.02)

    def close(self) -> None:
        """Stop watching."""
        self._closed.set()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _watch(self) -> None:
        period = min(_LONGEST_PERIOD_S, self._timeout_s / 10)
        while not self._closed.wait(period):
            self._look(time.monotonic())

    def _look(self, now: float) -> None:
        if self._found is None:
            problem = self._dead() or self._stuck(now)
            if problem is None:
                return
            self._found = (problem, now)
            self._workers.kill()
        problem, since = self._found
        waiting_since = self._waiting_since
        grace = _GRACE_S if self._workers.processes else 0.0
        if waiting_since is not None and now - max(since, waiting_since) >= grace:
            end_process(problem)

    def _dead(self) -> str | None:
        dead = self._workers.dead()
        if not dead:
            return None
        number, code = dead[0]
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        reading = self._reading(number)
        return f"{self._name(number)} died ({how}) " + (f"while reading {reading}" if reading else "between two samples")

    def _stuck(self, now: float) -> str | None:
        """A read that lasts too long; else a run during which nothing happened for as long."""
        for number in self._activity.busy():
            lasted = now - float(self._activity.rows[number]["since"])
            if lasted > self._timeout_s:
                return f"{self._name(number)} has been reading {self._reading(number)} for {lasted:.0f} s{self._limit()}"
        since = self._waiting_since
        quiet = 0.0 if since is None else now - max(since, self._activity.last_sign())
        return self._silent(quiet) if quiet > self._timeout_s else None

    def _silent(self, quiet: float) -> str:
        states = []
        for number, process in enumerate(self._workers.processes, 1):
            does = _STATES.get(process_state(process.pid or 0), "waits")
            states.append(f"{self._name(number)} {does}")
        return (
            f"the loader has given nothing for {quiet:.0f} s{self._limit()}: {', '.join(states) or 'DALI does not come back'}"
        )

    def _limit(self) -> str:
        return f" (data.timeout_s={self._timeout_s:g})"

    def _name(self, number: int) -> str:
        pid = self._activity.rows[number]["pid"]
        return f"worker {number} (pid {pid})" if number else f"the loader (pid {pid})"

    def _reading(self, number: int) -> str:
        row = self._activity.rows[number]
        return self._describe(int(row["position"]), int(row["sample"])) if row["position"] >= 0 else ""
