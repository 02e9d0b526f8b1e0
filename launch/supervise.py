"""Keep a run going: start it, watch it, start it again.

    python -m launch.supervise [options] -- deepspeed --hostfile HOSTS train.py --objective jepa_vcr … run.dir=RUN

Ends with 0 when all steps are done, 2 on a mistake of yours (not tried again), 75 when it was asked to stop (SIGTERM, SIGINT,
SIGUSR1; all ranks have then saved), else with the exit code of the last of `--max-failures` starts without a new checkpoint.
RUN/supervision/ has log.jsonl, the hostfile in use and the stacks of a run that hung.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType

from launch.command import Command
from launch.hostfile import unreachable, usable, write_hostfile
from mri_fm.engine.publication import LATEST_FILE
from mri_fm.engine.relay import FOLDER, PERIOD_S, ask
from mri_fm.errors import EXIT_RESUMABLE, EXIT_USER_ERROR, UserError, run_main
from mri_fm.observe.recorder import METRICS_FILE

_LOOK_S = 0.2
_AGAIN_S = 5.0
_LONGEST_WAIT_S = 600.0
_SSH_NOTICES = "-o ServerAliveInterval=15 -o ServerAliveCountMax=4"  # else pdsh waits for a node that is gone
_SETTLE_S = 3 * PERIOD_S  # until a request has been seen on every node


def main() -> int:
    """Supervise the command after `--`."""
    arguments = sys.argv[1:]
    split = arguments.index("--") if "--" in arguments else len(arguments)
    options = parse(arguments[:split])
    return Supervisor(Command.read(arguments[split + 1 :]), options).run()


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Options of the supervisor itself."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--max-failures", type=int, default=5, help="starts in a row without a new checkpoint before it gives up"
    )
    parser.add_argument("--backoff-s", type=float, default=10.0, help="wait after the first failure; doubled up to 10 minutes")
    parser.add_argument("--hang-s", type=float, default=1800.0, help="no logged step and no checkpoint for so long: it hangs")
    parser.add_argument("--start-s", type=float, default=3600.0, help="the same until a start has logged its first step")
    parser.add_argument("--grace-s", type=float, default=600.0, help="for ranks to save and stop before they are killed")
    parser.add_argument(
        "--most-per-rank",
        type=int,
        default=0,
        help="samples that a GPU can take at once, for when nodes are gone; 0: any number",
    )
    options = parser.parse_args(arguments)
    if options.most_per_rank < 0:
        raise UserError(f"--most-per-rank {options.most_per_rank} must be 0 (any number) or more")
    return options


class Supervisor:
    """One run, from its first start to its end."""

    def __init__(self, command: Command, options: argparse.Namespace) -> None:
        """Take the run for oneself.

        Raises:
            UserError: another supervisor has it, or its folder cannot be written.
        """
        self.command, self.options = command, options
        self.folder = command.run_dir / FOLDER
        self._asked = threading.Event()
        self._node = "" if command.node is None else f"-{command.node}"  # each node has a supervisor of its own
        self._lock = _take(self.folder, f"lock{self._node}")

    def run(self) -> int:
        """Start until there is nothing left to do; returns the exit code."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, self._ask)
        failures = 0
        while True:
            before = self.saved_step()
            code = self._start()
            failures = 0 if self.saved_step() > before else failures + 1
            end = decide(code, self.is_done(), self._asked.is_set(), failures, self.options.max_failures)
            if end is not None:
                return end
            wait_s = min(self.options.backoff_s * 2 ** max(0, failures - 1), _LONGEST_WAIT_S)
            self.say("starting again", wait_s=wait_s, step=self.saved_step(), failures=failures)
            if self._asked.wait(wait_s):
                return EXIT_RESUMABLE

    def saved_step(self) -> int:
        """The step of the newest checkpoint; 0 before the first."""
        with suppress(OSError, ValueError, IndexError):
            return int((self.command.run_dir / "checkpoints" / LATEST_FILE).read_text().split("-")[1])
        return 0

    def is_done(self) -> bool:
        """Whether the last step is saved: a launcher that was killed may exit with 0, too."""
        return self.saved_step() >= self.command.config.train.steps

    def say(self, event: str, **details: float | str | None) -> None:
        """A line for people, and one for programs."""
        words = " ".join(f"{name}={value}" for name, value in details.items())
        print(f"supervise: {event} {words}".rstrip(), file=sys.stderr, flush=True)
        with suppress(OSError), (self.folder / f"log{self._node}.jsonl").open("a") as log:  # the disk may be full
            log.write(json.dumps({"time": time.time(), "event": event, **details}) + "\n")

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked.set()

    def _ask_ranks(self, number: signal.Signals) -> None:
        """Have each of them sent a signal, if the folder through which they hear of it can be written."""
        try:
            ask(self.command.run_dir, number)
        except OSError as error:
            self.say("ranks cannot be asked", signal=number.name, reason=str(error))

    def _ask_to_stop(self, told_at: float) -> float:
        """Have them save and stop, again after a while for those that had not begun to listen; when they were last told."""
        now = time.monotonic()
        if now - told_at <= _AGAIN_S:
            return told_at
        self._ask_ranks(signal.SIGTERM)
        return now

    def _start(self) -> int:
        """Run the command once; returns its exit code, 128 + n for signal n."""
        words = self._words()
        environment = {"PDSH_SSH_ARGS_APPEND": _SSH_NOTICES, **os.environ}
        process = subprocess.Popen(words, start_new_session=True, pass_fds=[self._lock], env=environment)
        self.say("started", pid=process.pid, command=" ".join(words))
        try:
            self._watch(process)
        finally:
            self._sweep(process)
        code = process.wait()
        code = 128 - code if code < 0 else code
        self.say("ended", code=code, step=self.saved_step())
        return code

    def _words(self) -> list[str]:
        """The command on the nodes that can be reached, as many of them as the batch divides over.

        Raises:
            UserError: none can.
        """
        slots = dict(self.command.slots)
        if not slots:
            return list(self.command.words)
        for host, reason in unreachable(slots).items():
            self.say("without a node", host=host, reason=reason)
            del slots[host]
        if not slots:
            raise UserError(
                f"no node can be reached by ssh: {', '.join(self.command.slots)}; `python -m launch.doctor` says why"
            )
        used, accumulation = usable(slots, self.command.batch(self.options.most_per_rank))
        if len(used) < len(slots):
            self.say(
                "nodes left idle", hosts=", ".join(host for host in slots if host not in used), why="the batch does not divide"
            )
        hostfile = self.folder / "hostfile"
        try:
            write_hostfile(hostfile, used)
        except OSError as error:
            raise UserError(f"{hostfile} cannot be written ({error}); free some space, the same command goes on") from error
        if accumulation != self.command.config.train.accumulation:
            self.say("more micro-steps", accumulation=accumulation, why="the batch does not divide otherwise")
        return self.command.on(hostfile, len(used), accumulation)

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        """Wait until the launcher has ended, or has to be."""
        seen, since, patience_s = self._signs(), time.monotonic(), self.options.start_s
        asked_at: float | None = None
        while process.poll() is None:
            time.sleep(_LOOK_S)
            now = time.monotonic()
            if self._asked.is_set() and asked_at is None:
                asked_at, told_at = now, -math.inf
                self.say("asking the ranks to save and stop")
            if asked_at is not None:
                told_at = self._ask_to_stop(told_at)
            if asked_at is not None and now - asked_at > self.options.grace_s:
                self.say("ranks did not stop in time", grace_s=self.options.grace_s)
                return
            signs = self._signs()
            if signs != seen:
                seen, since, patience_s = signs, now, self.options.hang_s
            if now - since > patience_s:
                self._dump_stacks(patience_s)
                return

    def _signs(self) -> tuple[int, list[str]]:
        """What changes while a run goes on: its log and its checkpoints."""
        metrics = self.command.run_dir / METRICS_FILE
        size = metrics.stat().st_size if metrics.is_file() else 0
        return size, sorted(path.name for path in self.command.run_dir.glob("checkpoints/*"))

    def _dump_stacks(self, silent_s: float) -> None:
        self._ask_ranks(signal.SIGUSR2)
        time.sleep(_SETTLE_S)
        self.say("hangs", silent_s=silent_s, stacks=str(self.folder / "stacks-*.txt"))

    def _sweep(self, process: subprocess.Popen[bytes]) -> None:
        """End what a launcher has left: ranks outlive one that is killed, and may still save then."""
        if process.poll() is not None:
            deadline, told_at = time.monotonic() + self.options.grace_s, -math.inf
            while members(process.pid) and time.monotonic() < deadline:
                told_at = self._ask_to_stop(told_at)
                time.sleep(_LOOK_S)
        if self.command.node is None and (process.poll() != 0 or not self.is_done()):
            self._ask_ranks(signal.SIGKILL)  # on other nodes
            time.sleep(_SETTLE_S)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def decide(code: int, done: bool, asked: bool, failures: int, most: int) -> int | None:
    """The exit code with which supervision ends; None: start again."""
    if code == EXIT_USER_ERROR:
        return EXIT_USER_ERROR
    if code == 0 and done:
        return 0
    if asked:
        return EXIT_RESUMABLE
    if failures >= most:
        return code or 1
    return None


def members(group: int) -> list[int]:
    """Processes of a process group that still run (proc(5): state and group are the first and third word after the name)."""
    alive = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, of = file.read_text().rpartition(")")[2].split()[:3]
            if int(of) == group and state not in "ZX":
                alive.append(int(file.parent.name))
    return alive


def _take(folder: Path, name: str) -> int:
    """A lock that this process and the launcher hold, so that a second supervisor is refused while either lives."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / name, os.O_CREAT | os.O_RDWR, 0o644)
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error}); give a run.dir of yours") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UserError(
            f"{folder.parent} is being supervised already, or its launcher still runs: see the log in {folder}"
        ) from error
    return lock


if __name__ == "__main__":
    run_main(main)
