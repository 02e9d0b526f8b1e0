"""The faults: what is done to a running job, when, and what its owner then mends."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from fault_injection.job import TIMEOUT_S, Job, Plan, kill
from fault_injection.nodes import TwoNodes
from fault_injection.progress import wait_until
from mri_fm.data.corpus import Corpus
from mri_fm.engine.publication import PARTIAL, step_name

DISK_MB = 200


def nothing(job: Job) -> None:
    """What most faults leave to be mended."""


@dataclass(frozen=True)
class Fault:
    """One row of the table. `strike` returns at the moment of the fault, or soon after it."""

    name: str
    strike: Callable[[Job, random.Random], None]
    mend: Callable[[Job], None] = nothing  # by the owner, before he starts it again
    words: tuple[str, ...] = ()
    two_nodes: bool = False
    small_disk: bool = False
    own_corpus: bool = False


@dataclass
class Stage:
    """The place of one run: its folders and its network, taken down at the end."""

    folder: Path
    fault: Fault
    stack: ExitStack = field(default_factory=ExitStack)

    def prepare(self, plan: Plan) -> tuple[Plan, Path, TwoNodes | None]:
        """The plan, the run's folder and its nodes."""
        shutil.rmtree(self.folder, ignore_errors=True)
        run_dir = self.folder / "run"
        run_dir.mkdir(parents=True)
        if self.fault.own_corpus:
            plan = replace(plan, corpus=Path(shutil.copytree(plan.corpus, self.folder / "corpus")))
        if self.fault.small_disk:
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(run_dir)], check=True)
            self.stack.callback(subprocess.run, ["umount", "--lazy", str(run_dir)], check=True)
        nodes = self.stack.enter_context(TwoNodes(self.folder / "ssh")) if self.fault.two_nodes else None
        return plan, run_dir, nodes


def kill_one_of(find: Callable[[Job], list[int]]) -> Callable[[Job, random.Random], None]:
    """SIGKILL, at a random moment, to one of the processes that `find` finds."""

    def strike(job: Job, draw: random.Random) -> None:
        job.wait_for_moment(draw)
        kill(draw.choice(find(job)))

    return strike


def kill_writer(job: Job, draw: random.Random) -> None:
    """SIGKILL to one that has not ended yet."""
    for writers in job.saves(draw):
        if writers and kill(draw.choice(writers)) and _is_half_written(job):
            return


def ask_to_stop(job: Job, draw: random.Random) -> None:
    """SIGTERM to the supervisor, as a batch system does it."""
    job.wait_for_moment(draw)
    job.signal_supervisors(signal.SIGTERM)


def preempt_rank(job: Job, draw: random.Random) -> None:
    """SIGTERM to one rank alone."""
    job.wait_for_moment(draw)
    kill(draw.choice(job.ranks()), signal.SIGTERM)


def stop_rank(job: Job, draw: random.Random) -> None:
    """SIGSTOP, and nobody lets it go on."""
    job.wait_for_moment(draw)
    kill(draw.choice(job.ranks()), signal.SIGSTOP)


def cut_power_while_saving(job: Job, draw: random.Random) -> None:
    """SIGKILL to all processes while writers work."""
    for _ in job.saves(draw):
        if _is_half_written(job):
            job.kill_all()
            return


def fill_disk_while_saving(job: Job, draw: random.Random) -> None:
    """Somebody else's file takes what is left, while writers work; they stand still for this moment."""
    for writers in job.saves(draw):
        for writer in writers:
            kill(writer, signal.SIGSTOP)
        half_written = _is_half_written(job)
        if half_written:
            _fill(job.run_dir / "ballast")
        for writer in writers:
            kill(writer, signal.SIGCONT)
        if half_written:
            return


def fill_disk_before_saving(job: Job, draw: random.Random) -> None:
    """The same at any moment."""
    job.wait_for_moment(draw)
    _fill(job.run_dir / "ballast")


def free_disk(job: Job) -> None:
    (job.run_dir / "ballast").unlink(missing_ok=True)


def corrupt_newest(job: Job, draw: random.Random) -> None:
    """Everything is killed, and a file of the newest checkpoint comes back cut, altered or not at all."""
    wait_until(lambda: len(job.progress.published) >= 2)
    job.wait_for_moment(draw, first=job.progress.step())
    job.kill_all()
    newest = job.run_dir / "checkpoints" / step_name(job.progress.newest(time.time()))
    file = draw.choice(sorted(newest.iterdir()))
    size = file.stat().st_size
    draw.choice([_flip_bit, _cut, lambda file, _: file.unlink()])(file, draw.randrange(size))


def cut_network(least_s: float, most_s: float) -> Callable[[Job, random.Random], None]:
    """The link between the nodes goes down and comes back after a while."""

    def strike(job: Job, draw: random.Random) -> None:
        assert job.nodes is not None
        job.wait_for_moment(draw)
        job.nodes.cut()
        time.sleep(draw.uniform(least_s, most_s))
        job.nodes.mend()

    return strike


def spoil_shard(job: Job, draw: random.Random) -> None:
    """All samples of a shard change in the middle of an epoch, before the run's last ones are read ahead."""
    job.wait_for_moment(draw, last=job.plan.steps // 2)
    samples = Corpus.open(job.plan.corpus, verify="size").select("train")
    shard = Path(draw.choice(samples).shard)
    shutil.copy2(shard, shard.with_suffix(".kept"))
    for sample in samples:
        if Path(sample.shard) == shard:
            _flip_bit(shard, sample.offset + draw.randrange(sample.size))


def restore_shard(job: Job) -> None:
    for kept in job.plan.corpus.rglob("*.kept"):
        kept.rename(kept.with_suffix(".tar"))


def _is_half_written(job: Job) -> bool:
    return any(job.run_dir.glob(f"checkpoints/*{PARTIAL}"))


def _fill(file: Path) -> None:
    with suppress(OSError), file.open("wb", buffering=0) as ballast:
        while True:
            ballast.write(bytes(1 << 20))
    with suppress(OSError), file.open("ab", buffering=0) as ballast:
        while True:
            ballast.write(bytes(512))


def _flip_bit(file: Path, place: int) -> None:
    with file.open("r+b") as stream:
        stream.seek(place)
        (byte,) = stream.read(1)
        stream.seek(place)
        stream.write(bytes([byte ^ 1]))


def _cut(file: Path, size: int) -> None:
    os.truncate(file, size)


FAULTS = (
    Fault("kill -9 of a rank", kill_one_of(Job.ranks)),
    Fault("kill -9 of a launcher", kill_one_of(Job.launchers)),
    Fault("kill -9 of a reading process", kill_one_of(Job.readers), words=("data.workers=1",)),
    Fault("kill -9 of a checkpoint writer", kill_writer),
    Fault("SIGTERM to the job", ask_to_stop),
    Fault("SIGTERM to one rank", preempt_rank),
    Fault("a rank stopped for good", stop_rank),
    Fault("power cut during a save", cut_power_while_saving),
    Fault("disk full during a save", fill_disk_while_saving, free_disk, small_disk=True),
    Fault("disk full between saves", fill_disk_before_saving, free_disk, small_disk=True),
    Fault("newest checkpoint damaged", corrupt_newest),
    Fault("network cut for longer than the time-out", cut_network(1.5 * TIMEOUT_S, 3 * TIMEOUT_S), two_nodes=True),
    Fault("network cut for a moment", cut_network(1, 5), two_nodes=True),
    Fault("a shard goes bad", spoil_shard, restore_shard, own_corpus=True),
)
