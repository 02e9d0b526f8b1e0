"""A checkpoint becomes valid: checksummed, durable, then named; a reader sees a whole one or none.

    checkpoints/
      step-00000100/   rank-NNNNN.safetensors, meta.json, checksums.json
      latest           the name of the newest one

Imports no torch, since the background process that publishes starts with every checkpoint.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import xxhash

META_FILE = "meta.json"
CHECKSUM_FILE = "checksums.json"
LATEST_FILE = "latest"
PARTIAL = ".partial"  # suffix of a folder that is being written
SUM = ".sum"  # suffix of the checksum that a rank leaves beside its file, until all are there
_BLOCK = 1 << 22


@dataclass(frozen=True)
class Retention:
    """Which checkpoints stay: the newest `keep_last`, and those of multiples of `keep_every` steps (0: none of these)."""

    keep_last: int
    keep_every: int = 0

    def expired(self, steps: list[int]) -> list[int]:
        """Of ascending steps, those to remove."""
        return [step for step in steps[: -self.keep_last] if not (self.keep_every and step % self.keep_every == 0)]


def step_name(step: int) -> str:
    """The folder of a step's checkpoint."""
    return f"step-{step:08d}"


def complete_steps(folder: Path) -> list[int]:
    """The steps of finished checkpoints, ascending."""
    found = (re.fullmatch(r"step-(\d{8,})", path.name) for path in folder.glob("step-*"))
    return sorted(int(match[1]) for match in found if match)


def publish(partial: Path, step: int, retention: Retention) -> None:
    """Turn the written folder `partial` into the checkpoint of `step` and remove those that have expired.

    Whatever moment this stops at, `latest` names a whole checkpoint. Newer ones than `step` are removed too: a run that comes
    to `step` again has found them damaged.
    """
    folder = partial.parent
    _write_checksums(partial)
    final = folder / step_name(step)
    if final.exists():
        shutil.rmtree(final)
    partial.rename(final)
    sync(folder)  # the new name before `latest` says it
    write_durably(folder / LATEST_FILE, final.name)
    steps = complete_steps(folder)
    for old in [*retention.expired([s for s in steps if s <= step]), *(s for s in steps if s > step)]:
        shutil.rmtree(folder / step_name(old))


def verify_checkpoint(checkpoint: Path, part: int = 0, parts: int = 1) -> str | None:
    """What is wrong with a checkpoint's files, or None if all are there with the recorded checksums.

    Args:
        checkpoint: its folder.
        part: which of the `parts` shares of the files is looked at.
        parts: into how many they are divided.
    """
    record = checkpoint / CHECKSUM_FILE
    if not record.is_file():
        return f"{CHECKSUM_FILE} is missing"
    try:
        sums = dict(json.loads(record.read_bytes()))
    except (ValueError, TypeError):
        return f"{CHECKSUM_FILE} was altered"
    for name, expected in sorted(sums.items())[part::parts]:
        if not (checkpoint / name).is_file():
            return f"{name} is missing"
        if _file_hash(checkpoint / name) != expected:
            return f"{name} was cut or altered"
    return None


def write_durably(path: Path, text: str) -> None:
    """Write through a temporary file, so that a reader and a power cut see the old text or the new one."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text)
    sync(temporary)
    temporary.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file's or folder's content is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_checksums(folder: Path) -> None:
    """Join the checksums that ranks have left with those of the other files."""
    left = sorted(folder.glob(f"*{SUM}"))
    sums = {path.name.removesuffix(SUM): path.read_text() for path in left}
    for path in _others(folder, sums):
        sync(path)
        sums[path.name] = _file_hash(path)
    for path in left:
        path.unlink()
    write_durably(folder / CHECKSUM_FILE, json.dumps(dict(sorted(sums.items())), indent=1))


def _others(folder: Path, known: dict[str, str]) -> Iterator[Path]:
    return (path for path in sorted(folder.iterdir()) if path.name not in known and path.suffix != SUM)


def _file_hash(path: Path) -> str:
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
