"""What one rank must tell the others when it ends, and how a rank that can tell nothing is noticed.

A rank that fails leaves the others in a collective that never ends, or that ends in a traceback of gloo. So it writes its
reason to the store through which the ranks have met, where a thread of every other rank finds it and ends that rank too: the
same exit code everywhere, one line, from rank 0. A rank that is stopped or gone writes nothing; the others miss its heartbeat.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from types import TracebackType

from torch._C._distributed_c10d import PrefixStore, Store, TCPStore  # as torch.distributed has them, for type checkers

from mri_fm.data import watchdog
from mri_fm.engine.environment import Environment
from mri_fm.errors import EXIT_RESUMABLE, ResumableError, UserError, exit_code

_FAILURE, _SAID, _DONE = "failure", "said", "done"
_LONGEST_PERIOD_S = 1.0
_ANSWER_S = 5.0  # for rank 0 to speak, or for the others to finish
_GRACE_S = 2.0  # for a rank to meet by itself what another has met
_BEATS_PER_LOOK = 5  # rank 0 asks for every rank's heartbeat, which is W questions


class Peers:
    """Holds the ranks together while they train: `with Peers(environment, timeout_s): …`, by all ranks."""

    def __init__(self, environment: Environment, timeout_s: float) -> None:
        """Connect to the store; a rank that is silent for `timeout_s` seconds counts as lost. One rank has no peers."""
        self._rank, self._world, self._timeout_s = environment.rank, environment.world, timeout_s
        self._period_s = min(_LONGEST_PERIOD_S, timeout_s / 10)
        self._store = _connect() if environment.world > 1 else None
        self._answered = time.monotonic()
        self._ending = threading.Lock()  # taken by whoever ends this process, and never given back
        self._closed = threading.Event()

    def __enter__(self) -> Peers:
        watchdog.LAST_WORDS.append(self.tell)
        if self._store is not None:
            for work in (self._keep_in_touch, self._guard):
                threading.Thread(target=work, name="peers", daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """End this rank as the others end: a reason that has become known makes an exception a mere consequence of it.

        Raises:
            SystemExit: instead of a `UserError`, a `ResumableError`, or what another rank's end has caused here.
        """
        watchdog.LAST_WORDS.remove(self.tell)
        if not isinstance(error, Exception):
            self._finish()
            return
        if not self._ending.acquire(blocking=False):
            time.sleep(2 * _ANSWER_S)  # a thread ends this process
        self._closed.set()
        if isinstance(error, (UserError, ResumableError)):
            self.tell(str(error), exit_code(error))
            raise SystemExit(exit_code(error)) from None
        failure = self._wait_for(_FAILURE, _GRACE_S)
        if failure:
            raise SystemExit(self._follow(failure)) from None
        self._announce(f"{type(error).__name__}, see its traceback", 1)
        self._wait_for(_SAID, _ANSWER_S)

    def tell(self, message: str, code: int) -> None:
        """Have a message said once for the whole job and the other ranks end with `code`: by rank 0 if it still can."""
        self._announce(message, code)
        if self._rank == 0 or self._wait_for(_SAID, _ANSWER_S) is None:
            self._say(message)

    def _follow(self, failure: str) -> int:
        """Have it said, by rank 0, why another rank has ended; returns the exit code that goes with it."""
        reason = json.loads(failure)
        if self._rank == 0:
            self._say(f"rank {reason['rank']} on {reason['host']}: {reason['message']}")
        else:
            self._wait_for(_SAID, _ANSWER_S)
        return int(reason["code"])

    def _say(self, message: str) -> None:
        print(f"error: {message}", file=sys.stderr, flush=True)
        if self._store is not None and self._rank == 0:
            self._put(_SAID, "1")
            time.sleep(2 * _LONGEST_PERIOD_S)  # the others leave before the store does

    def _announce(self, message: str, code: int) -> None:
        """Write the reason, unless there is one: the first is the cause of the others."""
        text = json.dumps({"rank": self._rank, "host": socket.gethostname(), "message": message, "code": code})
        if self._store is not None:
            with suppress(RuntimeError):  # rank 0, which kept the store, is gone
                self._store.compare_set(_FAILURE, "", text)

    def _keep_in_touch(self) -> None:
        """In a thread, until closed: beat, and look for a failure and for peers that beat no more."""
        heard = Heartbeats(range(1, self._world) if self._rank == 0 else (), time.monotonic())
        beats = 0
        while not self._closed.wait(self._period_s):
            beats += 1
            try:
                self._step(beats, heard)
            except RuntimeError:  # rank 0, which kept the store, is gone: the guard waits for our own end
                return
            self._answered = time.monotonic()

    def _step(self, beats: int, heard: Heartbeats) -> None:
        assert self._store is not None
        self._store.set(_beat(self._rank), str(beats))
        for rank in heard.ranks if beats % _BEATS_PER_LOOK == 0 else ():
            if self._store.check([_beat(rank)]):
                heard.note(rank, self._store.get(_beat(rank)).decode(), time.monotonic())
        silent = heard.silent(time.monotonic(), self._timeout_s)
        if silent:
            self._announce(self._silence(silent), EXIT_RESUMABLE)
            self._end_for_silence(silent)
        if self._store.check([_FAILURE]):
            self._end(self._store.get(_FAILURE).decode())

    def _guard(self) -> None:
        """In another thread, since a question to a rank 0 that is stopped is never answered."""
        while not self._closed.wait(self._period_s):
            if time.monotonic() - self._answered > self._timeout_s:
                self._end_for_silence([0])

    def _end(self, failure: str) -> None:
        """End this process for what another rank has met, whatever the main thread waits for."""
        if json.loads(failure)["rank"] == self._rank:
            return
        if self._rank == 0:
            self._closed.wait(_GRACE_S)
        if self._ending.acquire(blocking=False):
            os._exit(self._follow(failure))

    def _end_for_silence(self, silent: list[int]) -> None:
        self._ending.acquire(timeout=_ANSWER_S)
        self._say(self._silence(silent))
        os._exit(EXIT_RESUMABLE)

    def _silence(self, silent: list[int]) -> str:
        return (
            f"nothing has been heard of rank {', '.join(map(str, silent))} for {self._timeout_s:g} s (data.timeout_s): it was "
            "stopped, or its node is gone; the same command resumes"
        )

    def _finish(self) -> None:
        """A good end: rank 0 stays until the others have come to theirs, since it keeps the store."""
        self._closed.set()
        self._put(_beat(self._rank), _DONE)
        deadline = time.monotonic() + _ANSWER_S
        for rank in range(1, self._world if self._rank == 0 else 1):
            while time.monotonic() < deadline and self._wait_for(_beat(rank), 0.1) != _DONE:
                time.sleep(0.05)

    def _wait_for(self, key: str, seconds: float) -> str | None:
        """The value of a key that appears within some seconds; "" if the store goes meanwhile, None if neither happens."""
        deadline = time.monotonic() + seconds
        while self._store is not None and time.monotonic() < deadline:
            try:
                if self._store.check([key]):
                    return self._store.get(key).decode()
            except RuntimeError:
                return ""
            time.sleep(0.05)
        return None

    def _put(self, key: str, value: str) -> None:
        if self._store is not None:
            with suppress(RuntimeError):  # rank 0, which kept the store, is gone
                self._store.set(key, value)


class Heartbeats:
    """When each peer was last heard: a beat is a change of its value, so clocks need not agree."""

    def __init__(self, ranks: Iterable[int], now: float) -> None:
        """All of `ranks` count as heard at `now`."""
        self.ranks = list(ranks)
        self._last = dict.fromkeys(self.ranks, ("", now))

    def note(self, rank: int, value: str, now: float) -> None:
        """`rank`'s value at a time."""
        if value != self._last[rank][0]:
            self._last[rank] = (value, now)

    def silent(self, now: float, timeout_s: float) -> list[int]:
        """The ranks that have neither beaten for `timeout_s` nor finished."""
        return [rank for rank, (value, since) in self._last.items() if value != _DONE and now - since > timeout_s]


def _beat(rank: int) -> str:
    return f"beat/{rank}"


def _connect() -> Store:
    """A connection of our own to the store that the process group uses."""
    store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    return PrefixStore(f"mri_fm/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
