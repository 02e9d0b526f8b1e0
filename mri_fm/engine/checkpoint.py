"""Checkpoints of a run: copied to host memory, written in the background, published when all ranks' files are on the disk.

`meta.json` holds the step, the position (samples consumed), the bad samples skipped and the steps left out so far, and the
identity of the run: what a checkpoint of another model, corpus or batch would have differently. There is no other state: all
randomness is a function of (seed, position). docs/checkpoints.md has the whole story.

    python -m mri_fm.engine.checkpoint inspect|verify|consolidate PATH
"""

from __future__ import annotations

import json
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from mri_fm.engine.ema import EMA
from mri_fm.engine.environment import Environment, on_all_ranks, on_rank_0
from mri_fm.engine.fragments import Fragment, local_fragments, optimizer_step, restore, whole_shapes
from mri_fm.engine.identity import differences
from mri_fm.engine.publication import LATEST_FILE, META_FILE, PARTIAL, complete_steps, step_name, verify_checkpoint
from mri_fm.engine.snapshot import Snapshot
from mri_fm.engine.stored import FORMAT, Stored, rank_file, read_meta
from mri_fm.engine.writer import Order, Writer
from mri_fm.errors import ResumableError, UserError, run_main
from mri_fm.run_config import CheckpointConfig

_LOOK_S = 0.02
_LAST_WAIT_S = 60.0


class Checkpointer:
    """Writes and finds the checkpoints of one run, on a file system that all ranks share; its methods are called by all."""

    def __init__(self, run_dir: Path, options: CheckpointConfig, environment: Environment, identity: dict[str, Any]) -> None:
        """Keep checkpoints under `run_dir`/checkpoints."""
        self.folder = run_dir / "checkpoints"
        self.options, self.environment, self.identity = options, environment, identity
        self._snapshot = Snapshot()
        self._writing: _Writing | None = None
        self._group: Any = None

    def save(self, engine: Any, ema: EMA, step: int, position: int, counts: Mapping[str, int] | None = None) -> None:
        """Copy the state of `step` and have it written; waits for the checkpoint before, should that still be under way.

        Args:
            engine: DeepSpeed's.
            ema: the teacher.
            step: optimizer steps completed.
            position: samples consumed.
            counts: what else the run counts and goes on counting after a resume, by name.

        Raises:
            ResumableError: the one before could not be written, or there is no space for this one.
        """
        self.finish()
        meta = {
            "format": FORMAT,
            "step": step,
            "position": position,
            **(counts or {}),
            "world": self.environment.world,
            "optimizer_step": optimizer_step(engine),
            "shapes": whole_shapes(engine.module),
            "identity": self.identity,
        }
        needed = self._needed(engine, ema)
        partial = Path(self._together(lambda: str(self._begin(meta, needed))))
        self._snapshot.take(self._share(engine, ema))
        self._writing = _Writing(step, partial, Writer(self._order(step, partial)))

    def require_space(self, engine: Any, ema: EMA) -> None:
        """Find before the first step that no checkpoint would fit.

        Raises:
            UserError: the file system has not enough space.
        """
        needed = self._needed(engine, ema)
        on_rank_0(self.environment, lambda: _require(self.folder, needed))

    def check(self) -> None:
        """See whether the checkpoint under way is done; costs nothing when none is.

        Raises:
            ResumableError: a rank could not write it. What it has written is removed, and the one before is as it was.
        """
        if self._writing is None:
            return
        writer = self._writing.writer
        running = writer.is_running()
        problem = None if running else writer.problem()
        counts = torch.tensor([int(running), int(problem is not None)])
        torch.distributed.all_reduce(counts, group=self._gloo())
        running_ranks, failed_ranks = counts.tolist()
        if failed_ranks:
            self._abandon(problem)
        if not running_ranks:
            self._writing = None

    def finish(self) -> None:
        """Wait until the checkpoint under way is done.

        Raises:
            ResumableError: see `check`.
        """
        while self._writing is not None:
            self.check()
            time.sleep(_LOOK_S if self._writing else 0.0)

    def close(self) -> None:
        """On this rank alone, after an error: let its writer end, so that the checkpoint under way is not lost."""
        if self._writing is not None:
            self._writing.writer.wait(_LAST_WAIT_S)
            self._writing = None

    def _begin(self, meta: dict[str, Any], needed: int) -> Path:
        """On rank 0: a folder of a name that no writer left over from a killed run can know."""
        for left in self.folder.glob(f"*{PARTIAL}"):
            shutil.rmtree(left)
        _require(self.folder, needed)
        partial = self.folder / f"{step_name(meta['step'])}.{uuid.uuid4().hex[:8]}{PARTIAL}"
        try:
            partial.mkdir(parents=True)
            (partial / META_FILE).write_text(json.dumps(meta, indent=1))
        except OSError as error:
            raise UserError(f"the checkpoint cannot be written ({error})") from error
        return partial

    def _together(self, begin: Callable[[], str]) -> str:
        """Once the run is under way, what stops it is no mistake of the user's: the same command resumes."""
        try:
            return str(on_rank_0(self.environment, begin))
        except UserError as error:
            raise ResumableError(f"{error}; the same command resumes from {self._newest()}") from None

    def _order(self, step: int, partial: Path) -> Order:
        rank = self.environment.rank
        return Order(
            descriptor=self._snapshot.descriptor,
            size=self._snapshot.size,
            partial=str(partial.absolute()),
            name=rank_file(rank),
            step=step,
            world=self.environment.world,
            publishes=rank == 0,
            keep_last=self.options.keep_last,
            keep_every=self.options.keep_every,
        )

    def _share(self, engine: Any, ema: EMA) -> list[Fragment]:
        shares = (f.share(self.environment.rank, self.environment.world) for f in local_fragments(engine, ema))
        return [share for share in shares if share.values_N.numel()]

    def _needed(self, engine: Any, ema: EMA) -> int:
        """Bytes of a checkpoint over all ranks."""
        size = torch.tensor(sum(share.values_N.nbytes for share in self._share(engine, ema)))
        torch.distributed.all_reduce(size, group=self._gloo())
        return int(size)

    def _abandon(self, problem: str | None) -> None:
        assert self._writing is not None
        writing, self._writing = self._writing, None
        writing.writer.kill()
        problems: list[str | None] = [None] * self.environment.world
        torch.distributed.all_gather_object(problems, problem, group=self._gloo())
        if self.environment.is_main:
            shutil.rmtree(writing.partial, ignore_errors=True)
        rank, met = next((rank, met) for rank, met in enumerate(problems) if met)
        raise ResumableError(
            f"the checkpoint of step {writing.step} could not be written by rank {rank} ({met}); "
            f"the same command resumes from {self._newest()}"
        )

    def _newest(self) -> str:
        steps = complete_steps(self.folder)
        return step_name(steps[-1]) if steps else "the beginning"

    def _gloo(self) -> Any:
        """A group that the device is not waited for in."""
        if self._group is None:
            self._group = torch.distributed.new_group(backend="gloo")
        return self._group

    def find(self) -> Path | None:
        """The newest checkpoint whose checksums match, agreed by all ranks; a damaged one is named and skipped.

        Raises:
            UserError: there are checkpoints and none of them is whole, or it belongs to another run.
        """
        steps = on_rank_0(self.environment, lambda: complete_steps(self.folder)[::-1])
        found = next(filter(self._is_whole, (self.folder / step_name(step) for step in steps)), None)
        if found is not None:
            on_rank_0(self.environment, lambda: self._check_identity(found))
        elif steps:
            raise UserError(f"no checkpoint under {self.folder} is whole; remove the folder to start afresh")
        return found

    def _is_whole(self, checkpoint: Path) -> bool:
        """Compare the checksums of its files, of which each rank reads its share; said if not."""

        def verify_share() -> None:
            problem = verify_checkpoint(checkpoint, self.environment.rank, self.environment.world)
            if problem is not None:
                raise UserError(problem)

        try:
            on_all_ranks(self.environment, verify_share)
        except UserError as problem:
            if self.environment.is_main:
                print(f"checkpoint {checkpoint.name} is refused: {problem}; trying the one before", flush=True)
            return False
        return True

    def _check_identity(self, checkpoint: Path) -> None:
        different = differences(read_meta(checkpoint)["identity"], self.identity)
        if different:
            raise UserError(
                f"{checkpoint} belongs to another run: {', '.join(different)} differ; "
                "take another run.dir or restore these settings"
            )

    def load(self, engine: Any, ema: EMA, checkpoint: Path) -> int:
        """Restore weights, optimizer and teacher; returns the number of optimizer steps completed.

        Raises:
            UserError: it is of another model.
        """
        stored = Stored(checkpoint)
        restore(engine, ema, stored)
        return int(stored.meta["step"])


class _Writing:
    """A checkpoint under way."""

    def __init__(self, step: int, partial: Path, writer: Writer) -> None:
        self.step, self.partial, self.writer = step, partial, writer


def _require(folder: Path, needed: int) -> None:
    """Refuse to begin what will not fit; quotas are found by the writer."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise UserError(
            f"no space for a checkpoint: it takes {needed / 1e9:.3g} GB and {there} has {free / 1e9:.3g} GB left; "
            "free some, lower checkpoint.keep_last or take another run.dir"
        )


def find_checkpoint(run_dir: Path, step: int | None = None) -> Path:
    """The checkpoint of a step, by default the one that `latest` names, verified, for readers outside a training run.

    Raises:
        UserError: there is none, or it is damaged.
    """
    pointer = run_dir / "checkpoints" / LATEST_FILE
    if not pointer.is_file():
        raise UserError(f"no checkpoint under {run_dir}: train.py writes one every checkpoint.every steps and at the end")
    checkpoint = pointer.parent / (pointer.read_text().strip() if step is None else step_name(step))
    if step is not None and not checkpoint.is_dir():
        kept = ", ".join(map(str, complete_steps(pointer.parent)))
        raise UserError(f"{run_dir} has no checkpoint of step {step}, but of {kept}; checkpoint.keep_last says how many stay")
    problem = verify_checkpoint(checkpoint)
    if problem is not None:
        raise UserError(f"{checkpoint} is damaged: {problem}")
    return checkpoint


if __name__ == "__main__":
    from mri_fm.engine.checkpoint_tool import main

    run_main(lambda: main(sys.argv[1:]))
