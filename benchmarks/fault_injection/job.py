"""A supervised training run of two ranks, as its owner and the kernel see it."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from fault_injection.nodes import ADDRESSES, TwoNodes
from fault_injection.progress import PATIENCE_S, Progress, wait_until

ROOT = Path(__file__).parents[2]
DEEPSPEED = str(Path(sys.executable).with_name("deepspeed"))
TIMEOUT_S = 15.0  # data.timeout_s
MODEL = "model.depth=2 model.predictor.depth=1 data.size=[32,64,64] train.global_batch=8 wandb.mode=disabled observe.every=0"
SUPERVISOR = "--backoff-s 1 --grace-s 60 --hang-s 180 --start-s 400 --max-failures 8"
_WRITER = "mri_fm.engine.writer"
_LONGEST_WRITE_S = 0.1


@dataclass(frozen=True)
class Plan:
    """What all runs have in common."""

    corpus: Path
    steps: int
    every: int  # steps between checkpoints

    def words(self, run_dir: Path) -> list[str]:
        """`train.py` and what it is given."""
        clocks = f"train.steps={self.steps} checkpoint.every={self.every} checkpoint.keep_last=3 log_every=1 seed=5"
        places = [f"data.corpus={self.corpus}", f"run.dir={run_dir}", f"data.timeout_s={TIMEOUT_S:g}"]
        zero2 = str(ROOT / "ds_configs" / "zero2.json")
        return ["train.py", "--objective", "jepa_vcr", "--ds_config", zero2, *places, *clocks.split(), *MODEL.split()]


@dataclass
class Job:
    """One run from its first start to its end, however often it is started again."""

    plan: Plan
    progress: Progress
    log: Path
    words: tuple[str, ...] = ()
    nodes: TwoNodes | None = None
    codes: list[int] = field(default_factory=list)  # of its starts by its owner; the supervisor's own are in its log
    struck_at: float = 0.0
    _supervisors: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def run_dir(self) -> Path:
        return self.progress.run_dir

    def start(self) -> None:
        """What its owner types, on each node."""
        environment = {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", **os.environ}
        with self.log.open("ab") as log:
            self._supervisors = [
                subprocess.Popen(
                    command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
                )
                for command in self._commands()
            ]

    def wait(self, seconds: float = PATIENCE_S) -> bool:
        """Wait for the supervisors to end; whether all say that the run is done."""
        deadline = time.monotonic() + seconds
        codes = [supervisor.wait(max(0.0, deadline - time.monotonic())) for supervisor in self._supervisors]
        self.codes.append(next((code for code in codes if code), 0))
        return not any(codes)

    def _commands(self) -> list[list[str]]:
        train = [*self.plan.words(self.run_dir), *self.words]
        supervise = [sys.executable, "-m", "launch.supervise", *SUPERVISOR.split(), "--", DEEPSPEED]
        if self.nodes is None:
            return [[*supervise, "--num_gpus", "2", "--master_port", str(_free_port()), *train]]
        hostfile = self.log.with_suffix(".hosts")
        hostfile.write_text("node0 slots=1\nnode1 slots=1\n")
        launcher = ["--hostfile", str(hostfile), "--num_nodes", "2", "--num_gpus", "1", "--no_ssh"]
        launcher += ["--master_addr", ADDRESSES[0], "--master_port", "29611", "--node_rank"]
        return [self.nodes.command(number, [*supervise, *launcher, str(number), *train]) for number in range(2)]

    def signal_supervisors(self, number: signal.Signals) -> None:
        """Signal what its owner has started."""
        for supervisor in self._supervisors:
            supervisor.send_signal(number)

    def kill_all(self) -> None:
        """SIGKILL to everything, supervisors first so that they do nothing about it; also what is left at the end."""
        self.signal_supervisors(signal.SIGKILL)
        for pid in _processes_with(str(self.run_dir)):
            kill(pid)

    def launchers(self) -> list[int]:
        """`deepspeed`, and the process that starts the ranks of a node."""
        programs = ("/deepspeed", "deepspeed.launcher.launch")
        return [pid for pid in self._processes() if any(word.endswith(programs) for word in _words(pid)[:5])]

    def ranks(self) -> list[int]:
        """The processes that train."""
        return [pid for pid in self._processes() if _is_rank(pid) and not _is_rank(_parent(pid))]

    def readers(self) -> list[int]:
        """The processes that read samples for the ranks."""
        return [child for rank in self.ranks() for child in _children(rank) if _is_rank(child)]

    def writers(self) -> list[int]:
        """The processes that write a checkpoint for the ranks."""
        return [child for rank in self.ranks() for child in _children(rank) if _WRITER in _words(child)]

    def _processes(self) -> list[int]:
        return _processes_with(f"run.dir={self.run_dir}")

    def wait_for_moment(self, draw: random.Random, first: int = 2, last: int | None = None) -> None:
        """A random one: after a step from `first` to `last` (by default the last but two), and some way into the next."""
        step = draw.randint(first, self.plan.steps - 2 if last is None else last)
        wait_until(lambda: self.progress.step() >= step)
        time.sleep(draw.uniform(0, self.progress.step_s()))
        self.struck_at = time.time()

    def saves(self, draw: random.Random) -> Iterator[list[int]]:
        """The writers of one checkpoint after another, beginning with a random one, some way into their work."""
        step = draw.choice(range(self.plan.every, self.plan.steps, self.plan.every))
        wait_until(lambda: self.progress.step() >= step - 1)
        while True:
            wait_until(partial(_have_writers, self.ranks()))
            time.sleep(draw.uniform(0, _LONGEST_WRITE_S))
            self.struck_at = time.time()
            yield self.writers()
            wait_until(lambda: not self.writers())


def kill(pid: int, number: signal.Signals = signal.SIGKILL) -> bool:
    """Send a signal; whether there was anybody to receive it."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def _processes_with(text: str) -> list[int]:
    """Processes whose command line has this text, but for this one."""
    pids = sorted(int(folder.name) for folder in Path("/proc").glob("[0-9]*"))
    return [pid for pid in pids if pid != os.getpid() and text in " ".join(_words(pid))]


def _words(pid: int) -> list[str]:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")
    return []


def _parent(pid: int) -> int:
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def _children(pid: int) -> list[int]:
    with suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def _have_writers(ranks: list[int]) -> bool:
    return any(_WRITER in _words(child) for rank in ranks for child in _children(rank))


def _is_rank(pid: int) -> bool:
    words = _words(pid)
    return any(word.startswith("--local_rank=") for word in words) and "train.py" in words
