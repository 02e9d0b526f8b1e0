"""Reads the file of an offline W&B run back."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2


def records(run_file: Path) -> Iterator[Any]:
    """Its records: after 7 bytes of header a LevelDB log, 32 KiB blocks of (crc, length, kind, data)."""
    content, at, parts = run_file.read_bytes(), 7, []
    while at + 7 <= len(content):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, at)
        parts.append(content[at + 7 : at + 7 + length])
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            record = wandb_internal_pb2.Record()
            record.ParseFromString(b"".join(parts))
            yield record
            parts = []


def run_files(run_dir: Path) -> list[Path]:
    """The files of the offline runs in a run folder, by time."""
    return sorted((run_dir / "wandb").glob("*run-*/run-*.wandb"))


def _values(items: Any) -> dict[str, Any]:
    return {(item.key or "/".join(item.nested_key)): json.loads(item.value_json) for item in items}


def history(run_file: Path) -> list[dict[str, Any]]:
    """The logged rows."""
    return [_values(record.history.item) for record in records(run_file) if record.HasField("history")]


def summary(run_file: Path) -> dict[str, Any]:
    """The last value of every key."""
    last: dict[str, Any] = {}
    for record in records(run_file):
        if record.HasField("summary"):
            last |= _values(record.summary.update)
    return last


def config(run_file: Path) -> dict[str, Any]:
    """The configuration."""
    found: dict[str, Any] = {}
    for record in records(run_file):
        if record.HasField("run"):
            found |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
    return found


def alerts(run_file: Path) -> list[tuple[str, str]]:
    """Title and text of what was sent."""
    return [(record.alert.title, record.alert.text) for record in records(run_file) if record.HasField("alert")]
