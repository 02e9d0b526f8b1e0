"""What happened to a run, with the time and the step: starts, ends, faults and alerts, one line each in events.jsonl."""

from __future__ import annotations

import json
import logging
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from mri_fm.observe.lines import open_to_append, read_lines

EVENTS_FILE = "events.jsonl"
_log = logging.getLogger(__name__)
KINDS = ("start", "end", "fault", "alert")


class Events:
    """Appends to a run's events.jsonl; a line is on its way to the disk when `add` returns."""

    def __init__(self, run_dir: Path) -> None:
        """Open `run_dir`/events.jsonl for appending."""
        self._file = open_to_append(run_dir / EVENTS_FILE)

    def add(self, kind: str, step: int, text: str) -> None:
        """Append one event; one that cannot be written, as on a full disk, is named in the log and left out.

        Args:
            kind: one of `KINDS`.
            step: optimizer steps completed when it happened.
            text: one line for people.
        """
        try:
            self._file.write(json.dumps({"time": time.time(), "step": step, "kind": kind, "text": text}) + "\n")
            self._file.flush()
        except OSError as error:
            _log.warning("%s cannot be written (%s): %s", self._file.name, error, text)

    def close(self) -> None:
        """Close the file."""
        with suppress(OSError):
            self._file.close()


def read_events(run_dir: Path) -> list[dict[str, Any]]:
    """The events in order: "time" (Unix seconds), "step", "kind" and "text" each; none where there is no file."""
    return list(read_lines(run_dir / EVENTS_FILE))
