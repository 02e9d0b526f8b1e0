"""Files of one JSON object a line, which a crash may cut."""

from __future__ import annotations

import json
from collections.abc import Iterator
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
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.endswith("}"):
            yield json.loads(line)
