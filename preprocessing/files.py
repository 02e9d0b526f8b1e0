"""Files that are on the disk when they are written, and checksums."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import xxhash


def write_bytes(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Write a new file down to the disk; it is never readable under other permissions than `mode`."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def checksum(path: Path) -> str:
    """XXH3-64 (hex) of a file, or over the names and bytes of all files below a folder, in name order; "" if absent."""
    if not path.is_dir():
        return _update(xxhash.xxh3_64(), [path]).hexdigest() if path.is_file() else ""
    folder = path
    paths = sorted(p for p in folder.rglob("*") if p.is_file())
    digest = xxhash.xxh3_64("\n".join(p.relative_to(folder).as_posix() for p in paths).encode())
    return _update(digest, paths).hexdigest()


def _update(digest: xxhash.xxh3_64, paths: Iterable[Path]) -> xxhash.xxh3_64:
    for path in paths:
        with path.open("rb") as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
    return digest
