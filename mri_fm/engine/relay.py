"""Signals reach the ranks of a supervised run through its folder, on whichever node and under whichever launcher they are.

A launcher that is signalled dies before its ranks, which go on without it, or ends them before they have saved; and on other
nodes there is nobody to signal. So `launch.supervise` writes the name of a signal into a file that all ranks can see, and a
thread of each rank sends it to its own process: SIGTERM to save and stop, SIGUSR2 to write down where each thread is, SIGKILL.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

FOLDER, REQUEST_FILE = "supervision", "request"
PERIOD_S = 1.0


class Relay:
    """`with Relay(run_dir, rank): …` by every rank; without a supervisor only SIGUSR2 is answered, on stderr."""

    def __init__(self, run_dir: Path, rank: int) -> None:
        """What was asked for before now was meant for an earlier start."""
        folder = run_dir / FOLDER
        self._request = folder / REQUEST_FILE
        self._before = _read(self._request)
        self._closed = threading.Event()
        self._supervised = folder.is_dir()
        # Open until the process ends: the handler writes without the interpreter, which may be stuck.
        self._stacks = (folder / f"stacks-{rank:05d}.txt").open("a") if self._supervised else sys.stderr

    def __enter__(self) -> Relay:
        faulthandler.register(signal.SIGUSR2, file=self._stacks, all_threads=True)
        if self._supervised:
            threading.Thread(target=self._listen, name="relay", daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._closed.set()

    def _listen(self) -> None:
        while not self._closed.wait(PERIOD_S):
            request = _read(self._request)
            if request != self._before:
                self._before = request
                os.kill(os.getpid(), signal.Signals[request.split()[0]])


def ask(run_dir: Path, number: signal.Signals) -> None:
    """Have every rank of a supervised run sent a signal, within a second or two."""
    folder = run_dir / FOLDER
    temporary = folder / f".{REQUEST_FILE}"
    temporary.write_text(f"{number.name} {time.time_ns()}")
    temporary.replace(folder / REQUEST_FILE)


def _read(path: Path) -> str:
    with suppress(OSError):
        return path.read_text()
    return ""
