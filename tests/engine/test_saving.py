"""Checkpoints written by real background processes on two ranks: what a slow, failing or killed writer leaves."""

import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import deepspeed
import pytest
import torch
from torch import nn

from mri_fm.engine import checkpoint as module
from mri_fm.engine.checkpoint import Checkpointer, find_checkpoint
from mri_fm.engine.ema import EMA
from mri_fm.engine.environment import read_environment, start_process_group
from mri_fm.engine.publication import PARTIAL, complete_steps, verify_checkpoint
from mri_fm.engine.stored import Stored
from mri_fm.errors import ResumableError, UserError
from mri_fm.run_config import CheckpointConfig
from tests.distributed import run_ranks

IDENTITY: dict[str, Any] = {"values": {}, "at_default": []}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.student, self.teacher = nn.Linear(7, 5), nn.Linear(7, 5).requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.student(x).square().mean()


class Run:
    """A training run reduced to what a checkpoint is of."""

    def __init__(self) -> None:
        self.environment = read_environment()
        self.rank = self.environment.rank
        start_process_group(self.environment)
        net = Net()
        config = {"train_batch_size": 2, "zero_optimization": {"stage": 2}, "zero_allow_untested_optimizer": True}
        optimizer = torch.optim.AdamW(net.student.parameters(), lr=0.1)
        self.engine, *_ = deepspeed.initialize(model=net, optimizer=optimizer, config=config, dist_init_required=False)
        self.ema = EMA(list(zip(net.teacher.parameters(), net.student.parameters(), strict=True)))

    def begin(self, run_dir: Path) -> None:
        """From here on, checkpoints go to `run_dir`."""
        self.checkpointer = Checkpointer(run_dir, CheckpointConfig(), self.environment, IDENTITY)

    def step(self) -> None:
        self.engine.backward(self.engine(torch.ones(1, 7)))
        self.engine.step()
        self.ema.update(0.5)

    def save(self, step: int) -> None:
        self.step()
        self.checkpointer.save(self.engine, self.ema, step, position=step)

    def save_whole(self, step: int) -> None:
        self.save(step)
        self.checkpointer.finish()

    @property
    def writer(self) -> Any:
        assert self.checkpointer._writing is not None
        return self.checkpointer._writing.writer


def stop_writer(run: Run) -> None:
    os.kill(run.writer.pid, signal.SIGSTOP)


def train_on(run: Run) -> dict[str, list[float]]:
    """The writers stand still while the run trains on; returns the weights at the time of saving."""
    run.save(1)
    stop_writer(run)
    before = {name: p.flatten().tolist() for name, p in run.engine.module.named_parameters()}
    for _ in range(3):
        run.step()
        run.checkpointer.check()
    assert complete_steps(run.checkpointer.folder) == []
    os.kill(run.writer.pid, signal.SIGCONT)
    run.checkpointer.finish()
    return before


def kill_a_writer(run: Run, victim: int) -> str:
    run.save_whole(1)
    run.save(2)
    stop_writer(run)
    if run.rank == victim:
        run.writer.kill()
    else:
        os.kill(run.writer.pid, signal.SIGCONT)
    with pytest.raises(ResumableError) as caught:
        run.checkpointer.finish()
    return str(caught.value)


def find_a_full_disk(run: Run) -> tuple[str, str]:
    run.save_whole(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 100}))
        with pytest.raises(ResumableError) as later:
            run.save(2)
        with pytest.raises(UserError) as first:
            run.checkpointer.require_space(run.engine, run.ema)
    return str(first.value), str(later.value)


def fill_the_disk(run: Run) -> str:
    """Rank 1's file is a link to a device on which every write fails with ENOSPC."""
    begin = run.checkpointer._begin

    def begin_with_a_link(meta: dict[str, Any], needed: int) -> Path:
        folder = begin(meta, needed)
        (folder / "rank-00001.safetensors").symlink_to("/dev/full")
        return folder

    run.checkpointer._begin = begin_with_a_link
    run.save(1)
    with pytest.raises(ResumableError) as caught:
        run.checkpointer.finish()
    return str(caught.value)


def signal_the_job(run: Run) -> None:
    run.save(1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        os.kill(run.writer.pid, number)
    run.checkpointer.finish()


def find_a_cut_file(run: Run) -> str:
    """Each rank reads its share of the files, and both learn what one of them has found."""
    for step in (1, 2):
        run.save_whole(step)
    torch.distributed.barrier()
    if run.rank == 0:
        os.truncate(run.checkpointer.folder / "step-00000002" / "rank-00001.safetensors", 100)
    torch.distributed.barrier()
    found = run.checkpointer.find()
    return "" if found is None else found.name


SCENES: dict[str, Callable[[Run], Any]] = {
    "train on": train_on,
    "kill writer 0": partial(kill_a_writer, victim=0),
    "kill writer 1": partial(kill_a_writer, victim=1),
    "full": find_a_full_disk,
    "fills": fill_the_disk,
    "signals": signal_the_job,
    "cut": find_a_cut_file,
}


def play(rank: int, folder: Path) -> dict[str, Any]:
    run = Run()
    results = {}
    for name, scene in SCENES.items():
        run.begin(folder / name)
        results[name] = scene(run)
    return results


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Where the runs of all scenes lie, and what both ranks have seen of each."""
    folder = tmp_path_factory.mktemp("scenes")
    first, second = run_ranks(play, 2, folder)
    assert first == second
    return folder, first


def whole_steps(run_dir: Path) -> list[int]:
    """The checkpoints of a run, of which the newest is whole, with nothing half written beside them."""
    steps = complete_steps(run_dir / "checkpoints")
    assert not steps or verify_checkpoint(find_checkpoint(run_dir)) is None
    assert not list((run_dir / "checkpoints").glob(f"*{PARTIAL}"))
    return steps


def test_training_goes_on_while_the_state_of_then_is_written(played):
    folder, seen = played
    stored = dict(Stored(find_checkpoint(folder / "train on")).weights())
    assert {name: tensor.flatten().tolist() for name, tensor in stored.items()} == seen["train on"]


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_writer_ends_the_run_on_all_ranks_and_leaves_the_checkpoint_before(played, victim):
    folder, seen = played
    assert seen[f"kill writer {victim}"] == (
        f"the checkpoint of step 2 could not be written by rank {victim} (its writer ended with signal 9); "
        "the same command resumes from step-00000001"
    )
    assert whole_steps(folder / f"kill writer {victim}") == [1]


def test_a_full_disk_is_found_before_writing(played):
    folder, seen = played
    assert all(message.startswith("no space for a checkpoint: it takes") for message in seen["full"])
    assert seen["full"][1].endswith("the same command resumes from step-00000001")
    assert whole_steps(folder / "full") == [1]


def test_a_disk_that_fills_while_writing_is_said_in_one_line(played):
    folder, seen = played
    assert seen["fills"] == (
        "the checkpoint of step 1 could not be written by rank 1 ([Errno 28] No space left on device); "
        "the same command resumes from the beginning"
    )
    assert whole_steps(folder / "fills") == []


def test_a_signal_to_the_whole_job_does_not_end_a_writer(played):
    assert whole_steps(played[0] / "signals") == [1]


def test_a_cut_file_is_found_by_all_ranks(played):
    assert played[1]["cut"] == "step-00000001"


def die_while_writing(rank: int, run_dir: Path) -> None:
    run = Run()
    run.begin(run_dir)
    run.save_whole(1)
    run.save(2)
    stop_writer(run)
    (run_dir / f"writer-{rank}").write_text(str(run.writer.pid))
    torch.distributed.barrier()
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_kill_while_writing_takes_the_writers_along_and_leaves_the_checkpoint_before(tmp_path):
    with pytest.raises(RuntimeError, match="died"):
        run_ranks(die_while_writing, 2, tmp_path)
    for rank in range(2):
        end(int((tmp_path / f"writer-{rank}").read_text()))
    assert complete_steps(tmp_path / "checkpoints") == [1]
    assert verify_checkpoint(find_checkpoint(tmp_path)) is None


def end(writer: int) -> None:
    """Let a writer go on, if it is still there, and see it end without its rank."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        status = Path(f"/proc/{writer}/stat")
        if not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        os.kill(writer, signal.SIGCONT)  # it may have been stopped before it could ask to die with its rank
        time.sleep(0.05)
    raise AssertionError(f"writer {writer} has outlived its rank")
