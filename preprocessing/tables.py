"""The tables of a corpus: manifest, private ledger, corpus.json."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mri_fm.data.schema import CORPUS_FILE, LEDGER, LEDGER_FILE, MANIFEST, MANIFEST_FILE
from mri_fm.errors import UserError
from preprocessing.datasets.table import MISSING_VALUES
from preprocessing.files import write_text

NUMBERS = ((re.compile(r"-?(0|[1-9]\d*)"), int, pa.int64()),
           (re.compile(r"-?((0|[1-9]\d*)(\.\d*)?|\.\d+)(e[-+]?\d+)?", re.IGNORECASE), float, pa.float64()))  # fmt: skip
OWN_COLUMNS = ("kind", "base", "scan_uid")  # of every manifest, beside those of the schema
TEXT_COLUMNS = (*OWN_COLUMNS, "duplicate_uids", "rendering")  # names, even where they look like numbers


def write_manifest(corpus: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write manifest.parquet.

    Args:
        corpus: its folder.
        rows: the columns of `MANIFEST`, `OWN_COLUMNS`, and label columns as text; a column that some rows lack is null there.
    """
    table = pa.Table.from_pylist([{name: row[name] for name in MANIFEST.names} for row in rows], MANIFEST)
    names = {name: None for row in rows for name in row if name not in MANIFEST.names}
    for name in [*OWN_COLUMNS, *(n for n in sorted(names) if n not in OWN_COLUMNS)]:
        values = [row.get(name) for row in rows]
        table = table.append_column(name, pa.array(values, pa.string()) if name in TEXT_COLUMNS else label_column(values))
    _write_parquet(table, corpus / MANIFEST_FILE, 0o644)


def write_ledger(corpus: Path, rows: Sequence[dict[str, str]]) -> None:
    """Write private/ledger.parquet, one row per input in the order of source paths, readable by the owner only."""
    table = pa.Table.from_pylist(sorted(rows, key=lambda row: row["source_path"]), LEDGER)
    _write_parquet(table, corpus / LEDGER_FILE, 0o600)


def read_ledger(corpus: Path) -> list[dict[str, str]]:
    """The rows of the ledger; [] where there is none.

    Raises:
        UserError: it is damaged.
    """
    path = corpus / LEDGER_FILE
    try:
        return pq.read_table(path).to_pylist() if path.is_file() else []
    except pa.ArrowInvalid as error:
        raise UserError(
            f"{path} is damaged: restore it, or remove it to let the first source path of equal scans stay"
        ) from error


def write_corpus_file(corpus: Path, content: dict[str, Any]) -> None:
    """Write corpus.json, which makes a corpus complete."""
    write_text(corpus / CORPUS_FILE, json.dumps(content, indent=1) + "\n")


def label_column(values: Sequence[str | None]) -> pa.Array:
    """Text to integers or floats where all present values are numbers, else to text; `MISSING_VALUES` become null.

    A leading zero makes a code of a number ("007"), which stays text.
    """
    present = [None if v is None or v.strip().lower() in MISSING_VALUES else v.strip() for v in values]
    for pattern, kind, arrow in NUMBERS:
        if all(v is None or pattern.fullmatch(v) for v in present):
            try:
                return pa.array([None if v is None else kind(v) for v in present], arrow)
            except (ValueError, OverflowError, pa.ArrowInvalid):
                continue
    return pa.array(present, pa.string())


def _write_parquet(table: pa.Table, path: Path, mode: int) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as stream:
        pq.write_table(table, stream)
    partial.replace(path)
