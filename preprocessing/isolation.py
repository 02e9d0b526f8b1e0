"""A process of its own for what may die: a reader that crashes takes no more than its one answer with it."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self, TypeVar, cast

from mri_fm.errors import UserError

Argument = TypeVar("Argument")
Result = TypeVar("Result")
READING = ("preprocessing.tasks",)
READY = "ready"


class ProcessDied(Exception):  # noqa: N818 - an answer, not an error
    """The process ended before it answered."""


def start_server(modules: tuple[str, ...]) -> None:
    """Start multiprocessing's fork server, unless it runs: it imports the modules once for all processes that it forks."""
    forkserver.set_forkserver_preload(list(modules))
    forkserver.ensure_running()


class Isolated:
    """A process that calls functions one after the other; a new one takes the place of one that died.

    It is forked from multiprocessing's fork server, which has no threads, and ends when its parent does, however that ends.
    """

    def __init__(self) -> None:
        self._process: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._process is not None:
            self._process.kill()
            self._end()

    def call(self, function: Callable[[Argument], Result], item: Argument) -> Result:
        """What the function returns for the item.

        Raises:
            ProcessDied: it took its process with it.
            UserError: no process can be started here.
            Exception: any other that the function raises.
        """
        if self._process is None:
            self._start()
        try:
            self._connection.send((function, item))
            succeeded, answer = self._connection.recv()
        except (EOFError, ConnectionError) as error:
            self._end()
            raise ProcessDied from error
        if not succeeded:
            raise answer
        return cast("Result", answer)

    def _start(self) -> None:
        start_server(READING)
        context = multiprocessing.get_context("forkserver")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, dict(os.environ)), daemon=True)
        self._process.start()
        theirs.close()
        try:
            self._connection.recv()
        except (EOFError, ConnectionError) as error:
            self._end()
            raise UserError("no process can be started: call this below `if __name__ == '__main__':`") from error

    def _end(self) -> None:
        self._connection.close()
        self._process.join()
        self._process = None


def _serve(connection: Connection, environment: dict[str, str]) -> None:
    """Answer until the other end is gone. An interrupt from the keyboard is for the parent to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.clear()  # the server's is older than the parent's
    os.environ.update(environment)
    connection.send(READY)
    while True:
        try:
            function, item = connection.recv()
        except EOFError:
            return
        try:
            answer = True, function(item)
        except Exception as error:
            answer = False, error
        connection.send(answer)
