"""labels.csv at the raw root: what the owner of the scans says of them, which overrules every adapter."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from mri_fm.data.schema import CONTRASTS, MANIFEST
from mri_fm.errors import UserError
from mri_fm.volume.discover import Input
from preprocessing.datasets.adapter import KINDS, Knowledge
from preprocessing.datasets.table import read_table

LABELS_FILE = "labels.csv"
KNOWN_COLUMNS = ("dataset", "subject", "session", "contrast", "kind", "base", "scan_uid")


def read_labels(path: Path, inputs: list[Input]) -> dict[str, dict[str, str]]:
    """Read labels.csv: source path → its row. A path may name the input, or any one file of a series.

    Raises:
        UserError: no column `path`, a reserved column, an unknown or repeated path, or a value that is not allowed.
    """
    if not path.is_file():
        return {}
    columns, lines = read_table(path, ",")
    _check_columns(path, columns)
    names = {name: item.source_path for item in inputs for name in (*item.files, item.source_path)}
    rows: dict[str, dict[str, str]] = {}
    for number, row in lines:
        source = names.get(row["path"])
        _check_row(f"{path}, line {number}", row, source, rows)
        rows[str(source)] = {k: v.strip() for k, v in row.items() if k != "path" and v}
    return rows


def _check_columns(path: Path, columns: list[str]) -> None:
    if "path" not in columns:
        raise UserError(f"{path} has no column 'path': name each scan there, relative to the raw folder")
    for number, column in enumerate(columns):
        meant = column.strip().lower()
        if not meant or column in columns[:number]:
            raise UserError(f"{path}: column {number + 1} has no name of its own, '{column}': name it or remove it")
        if meant != column and meant in KNOWN_COLUMNS:
            raise UserError(f"{path}: column '{column}' must be written '{meant}'")
    taken = sorted(set(columns) & (set(MANIFEST.names) - set(KNOWN_COLUMNS)))
    if taken:
        raise UserError(f"{path}: the build fills the column '{taken[0]}' itself, rename yours")


def _check_row(where: str, row: dict[str, str], source: str | None, rows: dict[str, dict[str, str]]) -> None:
    if None in row:
        raise UserError(f"{where}: more values than columns, quote those that hold a comma")
    if source is None:
        raise UserError(f"{where}: no scan at '{row['path']}', mend the path (relative to the raw folder) or remove the row")
    if source in rows:
        raise UserError(f"{where}: '{row['path']}' has a row already, remove one")
    for column, allowed in (("contrast", CONTRASTS), ("kind", KINDS)):
        if row.get(column) and row[column].strip() not in allowed:
            raise UserError(f"{where}: {column} '{row[column]}' is not one of {', '.join(allowed)}")


def apply_row(knowledge: Knowledge, row: dict[str, str]) -> Knowledge:
    """The knowledge with what its row of labels.csv says in place of what was known."""
    known: dict[str, Any] = {k: row[k] for k in KNOWN_COLUMNS if row.get(k)}
    labels = {k: v for k, v in row.items() if k not in KNOWN_COLUMNS}
    return replace(knowledge, **known, labels={**knowledge.labels, **labels})
