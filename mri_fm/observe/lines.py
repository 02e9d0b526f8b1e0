"""Files of one JSON object a line, which a crash may cut and a run may be appending to."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO


def open_to_append(path: Path) -> TextIO:
    """Open for appending; a last line that a crash has cut is ended first, so that the next one stands alone."""
    cut = path.is_file() and path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")
    file = path.open("a", encoding="utf-8")
    if cut:
        file.write("\n")
    return file


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a file; nothing where there is none."""
    if path.is_file():
        yield from _objects(path.read_bytes().splitlines())


class Tail:
    """Follows a file that grows, or is written anew."""

    def __init__(self, path: Path) -> None:
        """Start before its first line; it need not be there yet."""
        self._path, self._offset, self._inode = path, 0, 0

    def read(self) -> list[dict[str, Any]]:
        """The lines that have been ended since the last call; all of them where another file has taken its place."""
        if not self._path.is_file():
            return []
        with self._path.open("rb") as file:
            status = self._path.stat()
            if status.st_ino != self._inode or status.st_size < self._offset:
                self._offset, self._inode = 0, status.st_ino
            file.seek(self._offset)
            content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        self._offset += len(whole)
        return list(_objects(whole.splitlines()))


def _objects(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """What the lines hold, but for those that were cut."""
    for line in lines:
        try:
            content = json.loads(line)
        except ValueError:
            continue
        if isinstance(content, dict):
            yield content
