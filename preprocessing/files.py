"""Files that appear under their name only when they are complete, and checksums."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

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


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object that `write_text` left; {} where there is none or it was damaged since."""
    try:
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


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
