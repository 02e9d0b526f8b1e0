"""The background process that brings a rank's part of a checkpoint from memory to the disk while the run trains on.

The rank fills shared memory with the bytes of its file and starts this process with the descriptor. The process writes, makes
durable and leaves a checksum beside the file; that of rank 0 then waits for the checksums of all ranks and publishes. It
imports no torch (it is up within some 0.1 s), shares nothing else with the rank, and dies with it.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import xxhash

from mri_fm.engine.publication import SUM, Retention, publish, write_durably

_PR_SET_PDEATHSIG = 1
_BLOCK = 1 << 22
_LOOK_S = 0.02
_SIGNALS_OF_THE_JOB = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)  # the rank answers these, and waits for its writer
_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Order:
    """What one writer does: the first `size` bytes of `descriptor` go to `partial`/`name`."""

    descriptor: int
    size: int
    partial: str
    name: str
    step: int
    world: int
    publishes: bool  # wait for the files of all `world` ranks and publish
    keep_last: int
    keep_every: int


class Writer:
    """A writer process, as its rank sees it."""

    def __init__(self, order: Order) -> None:
        """Start writing; from the main thread, with whose end the process ends."""
        words = [sys.executable, "-m", "mri_fm.engine.writer", str(os.getpid()), json.dumps(asdict(order))]
        path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
        # A mask is inherited, so a signal to the whole job cannot end the process, not even before it could ask for that.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS_OF_THE_JOB)
        try:
            self._process = subprocess.Popen(
                words,
                pass_fds=[order.descriptor],
                stdin=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                env=os.environ | {"PYTHONPATH": path},
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    @property
    def pid(self) -> int:
        """The process' id."""
        return self._process.pid

    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    def problem(self) -> str | None:
        """Why an ended writer has failed, or None if it has not."""
        code = self._process.wait()
        if code == 0:
            return None
        said = self._process.stderr.read().strip() if self._process.stderr else ""
        return said.splitlines()[-1] if said else f"its writer ended with {_ending(code)}"

    def kill(self) -> None:
        """End it at once; what it has written so far is no checkpoint."""
        self._process.kill()
        self._process.wait()

    def wait(self, seconds: float) -> None:
        """Wait for its end, and kill it after some seconds."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()


def _ending(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def carry_out(order: Order) -> None:
    """Write one rank's file and, on rank 0, publish.

    Raises:
        OSError: no space, or a file system that fails.
    """
    path = Path(order.partial) / order.name
    checksum = _write(order.descriptor, order.size, path)
    write_durably(path.with_name(order.name + SUM), checksum)
    if order.publishes:
        while sum(name.endswith(SUM) for name in os.listdir(order.partial)) < order.world:
            time.sleep(_LOOK_S)  # a rank whose writer fails ends the run, and with it this process
        publish(Path(order.partial), order.step, Retention(order.keep_last, order.keep_every))


def _write(descriptor: int, size: int, path: Path) -> str:
    digest = xxhash.xxh3_128()
    with path.open("wb") as file:
        for offset in range(0, size, _BLOCK):
            block = os.pread(descriptor, min(_BLOCK, size - offset), offset)
            digest.update(block)
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _die_with(parent: int) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before prctl
        sys.exit(1)


def main() -> int:
    """What `Writer` starts: PARENT ORDER."""
    _die_with(int(sys.argv[1]))
    try:
        carry_out(Order(**json.loads(sys.argv[2])))
    except OSError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
