"""Files that appear under their name only when they are complete, and checksums."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import xxhash


def write_text(path: Path, text: str, *, mode: int = 0o644) -> None:
    """Replace a text file atomically; it is never readable under other permissions than `mode`."""
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(path)


def file_checksum(path: Path) -> str:
    """XXH3-64 (hex) of a file."""
    return _update(xxhash.xxh3_64(), [path]).hexdigest()


def tree_checksum(folder: Path) -> str:
    """XXH3-64 (hex) over the names and bytes of all files below a folder, in name order."""
    paths = sorted(p for p in folder.rglob("*") if p.is_file())
    digest = xxhash.xxh3_64("\n".join(p.relative_to(folder).as_posix() for p in paths).encode())
    return _update(digest, paths).hexdigest()


def _update(digest: xxhash.xxh3_64, paths: Iterable[Path]) -> xxhash.xxh3_64:
    for path in paths:
        with path.open("rb") as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
    return digest
