"""Checkpoints: written beside, checksummed, made durable, then named; a reader sees a whole one or none.

    checkpoints/
      step-00000100/   DeepSpeed's files, ema*.pt, meta.json, checksums.json
      latest           the name of the newest one

`meta.json` holds the step, the position (samples consumed), the bad samples skipped so far and the identity of the run: what a
checkpoint of another model, corpus or batch would have differently. There is no other state: all randomness is a function of
(seed, position).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import xxhash
from omegaconf import OmegaConf

from mri_fm.config import Config
from mri_fm.engine.ema import EMA
from mri_fm.engine.environment import Environment, on_rank_0
from mri_fm.errors import UserError

META_FILE = "meta.json"
CHECKSUM_FILE = "checksums.json"
LATEST_FILE = "latest"


def identity(config: Config, corpus_hash: str) -> dict[str, str]:
    """What must agree between a checkpoint and the run that resumes it, by configuration key."""
    tree = OmegaConf.structured(config)
    stream = (
        "size",
        "contrasts",
        "mixture",
        "mixture_by",
        "temperature",
        "curriculum",
        "views",
        "session_contrasts",
        "crop_foreground",
    )
    keys = ("objective", "model", *(f"data.{key}" for key in stream), "train.global_batch", "train.accumulation", "seed")
    named = {key: str(OmegaConf.select(tree, key)) for key in keys}
    return named | {"data.corpus": corpus_hash}


def step_name(step: int) -> str:
    """The folder of a step's checkpoint."""
    return f"step-{step:08d}"


class Checkpointer:
    """Writes and finds the checkpoints of one run, on a file system that all ranks share."""

    def __init__(self, run_dir: Path, keep_last: int, environment: Environment, identity: dict[str, str]) -> None:
        """Keep `keep_last` checkpoints under `run_dir`/checkpoints."""
        self.folder = run_dir / "checkpoints"
        self.keep_last, self.environment, self.identity = keep_last, environment, identity

    def save(self, engine: Any, ema: EMA, step: int, position: int, skips: int = 0) -> None:
        """Write the checkpoint of `step`, called by all ranks; `latest` moves once everything is on the disk."""
        from deepspeed import comm

        partial = self.folder / f"{step_name(step)}.partial"
        if self.environment.is_main:
            self._remove_partial()
            partial.mkdir(parents=True)
        comm.barrier()
        engine.save_checkpoint(str(self.folder), tag=partial.name, save_latest=False)
        ema.save(partial, self.environment.rank)
        comm.barrier()
        if self.environment.is_main:
            meta = {
                "step": step,
                "position": position,
                "skips": skips,
                "world": self.environment.world,
                "identity": self.identity,
            }
            (partial / META_FILE).write_text(json.dumps(meta, indent=1))
            self._publish(partial, step)
        comm.barrier()

    def _remove_partial(self) -> None:
        """Remove what a kill has left half written, at whichever step."""
        for left in self.folder.glob("*.partial"):
            shutil.rmtree(left)

    def _publish(self, partial: Path, step: int) -> None:
        _write_checksums(partial)
        final = self.folder / step_name(step)
        if final.exists():
            shutil.rmtree(final)
        partial.rename(final)
        _sync(self.folder)  # the new name before `latest` says it
        _write_durably(self.folder / LATEST_FILE, step_name(step))
        done = self._complete().index(final) + 1
        damaged = self._complete()[done:]  # else this run had begun after them
        for old in self._complete()[: max(0, done - self.keep_last)] + damaged:
            shutil.rmtree(old)

    def _complete(self) -> list[Path]:
        """Finished checkpoints, oldest first."""
        return sorted(p for p in self.folder.glob("step-*") if p.suffix != ".partial")

    def find(self) -> Path | None:
        """The newest checkpoint whose checksums match, agreed by all ranks; a damaged one is named and skipped.

        Raises:
            UserError: there are checkpoints and none of them is whole, or it belongs to another run.
        """
        name = on_rank_0(self.environment, self._find_first_whole)
        return None if name is None else self.folder / name

    def _find_first_whole(self) -> str | None:
        candidates = self._complete()[::-1]
        for candidate in candidates:
            problem = verify_checkpoint(candidate)
            if problem is None:
                self._check_identity(candidate)
                return candidate.name
            print(f"checkpoint {candidate.name} is refused: {problem}; trying the one before", flush=True)
        if candidates:
            raise UserError(f"no checkpoint under {self.folder} is whole; remove the folder to start afresh")
        return None

    def _check_identity(self, checkpoint: Path) -> None:
        saved = read_meta(checkpoint)["identity"]
        different = [key for key in self.identity if saved.get(key) != self.identity[key]]
        if different:
            raise UserError(
                f"{checkpoint} belongs to another run: {', '.join(different)} differ; "
                "take another run.dir or restore these settings"
            )

    def load(self, engine: Any, ema: EMA, checkpoint: Path) -> int:
        """Restore weights, optimizer and teacher; returns the number of optimizer steps completed.

        Raises:
            UserError: written by another number of ranks, or unreadable by DeepSpeed.
        """
        meta = read_meta(checkpoint)
        if meta["world"] != self.environment.world:
            raise UserError(
                f"{checkpoint} was written by {meta['world']} ranks and this run has {self.environment.world}; start as many"
            )
        path, _ = engine.load_checkpoint(str(self.folder), tag=checkpoint.name)
        if path is None:
            raise UserError(f"DeepSpeed found nothing to load in {checkpoint}; remove it to take the one before")
        ema.load(checkpoint, self.environment.rank)
        return int(meta["step"])


def read_meta(checkpoint: Path) -> dict[str, Any]:
    """The `meta.json` of a checkpoint: step, position, world, identity."""
    return dict(json.loads((checkpoint / META_FILE).read_text()))


def verify_checkpoint(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint's files, or None if all are there with the recorded checksums."""
    record = checkpoint / CHECKSUM_FILE
    if not record.is_file():
        return f"{CHECKSUM_FILE} is missing"
    try:
        sums = dict(json.loads(record.read_bytes()))
    except (ValueError, TypeError):
        return f"{CHECKSUM_FILE} was altered"
    for name, expected in sums.items():
        if not (checkpoint / name).is_file():
            return f"{name} is missing"
        if _file_hash(checkpoint / name) != expected:
            return f"{name} was altered"
    return None


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
        kept = ", ".join(str(int(path.name[-8:])) for path in sorted(pointer.parent.glob("step-????????")))
        raise UserError(f"{run_dir} has no checkpoint of step {step}, but of {kept}; checkpoint.keep_last says how many stay")
    problem = verify_checkpoint(checkpoint)
    if problem is not None:
        raise UserError(f"{checkpoint} is damaged: {problem}")
    return checkpoint


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != CHECKSUM_FILE)


def _file_hash(path: Path) -> str:
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def _write_checksums(folder: Path) -> None:
    sums = {}
    for path in _files(folder):
        _sync(path)
        sums[str(path.relative_to(folder))] = _file_hash(path)
    _write_durably(folder / CHECKSUM_FILE, json.dumps(sums, indent=1))


def _write_durably(path: Path, text: str) -> None:
    """Write through a temporary file, so that a reader and a power cut see the old text or the new one."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text)
    _sync(temporary)
    temporary.replace(path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
