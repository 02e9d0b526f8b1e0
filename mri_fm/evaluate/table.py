"""The columns of a manifest, and those of a user's CSV joined to them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import csv

from mri_fm.errors import UserError, nearest

Column = list[Any]


def columns_of(manifest: pa.Table, table: str = "") -> dict[str, Column]:
    """The manifest's columns as lists; with `table`, those of a CSV beside them, None where it says nothing.

    A CSV is joined by the first of these that it and the manifest have: `key`; `scan_uid`; `subject` and `session`; `subject`.
    Its columns win over the manifest's of the same name.

    Raises:
        UserError: no such file, no CSV, nothing to join it by, or two rows for one volume.
    """
    columns: dict[str, Column] = {name: manifest.column(name).to_pylist() for name in manifest.column_names}
    if not table:
        return columns
    added = _read_csv(Path(table))
    join = _join_columns(table, columns, added)
    place: dict[tuple[str, ...], int] = {}
    for i, identity in enumerate(zip(*(map(text, added[name]) for name in join), strict=True)):
        if place.setdefault(identity, i) != i:
            raise UserError(f"{table}: two rows for {' '.join(identity)}, lines {place[identity] + 2} and {i + 2}: keep one")
    found = [place.get(identity) for identity in zip(*(map(text, columns[name]) for name in join), strict=True)]
    if all(i is None for i in found):
        raise UserError(f"{table}: no volume of the corpus has one of its values of {', '.join(join)}; are they written alike?")
    for name in (name for name in added if name not in join):
        columns[name] = [None if i is None else added[name][i] for i in found]
    return columns


def _read_csv(path: Path) -> dict[str, Column]:
    if not path.is_file():
        raise UserError(f"table={path}: no such file")
    try:
        table = csv.read_csv(path, convert_options=csv.ConvertOptions(strings_can_be_null=True))
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no CSV with one header line ({str(error).splitlines()[0]})") from error
    return {name: table.column(name).to_pylist() for name in table.column_names}


def _join_columns(table: str, columns: Mapping[str, Column], added: Mapping[str, Column]) -> tuple[str, ...]:
    for names in (("key",), ("scan_uid",), ("subject", "session"), ("subject",)):
        if all(name in columns and name in added for name in names):
            return names
    raise UserError(f"{table} has no column key, scan_uid or subject to join it by; it has {', '.join(added)}")


def column_of(columns: Mapping[str, Column], name: str, where: str) -> Column:
    """A column by its name; `where` says who asks.

    Raises:
        UserError: there is none (the nearest is named).
    """
    if name in columns:
        return columns[name]
    known = list(columns)
    raise UserError(f"{where}={name}: the manifest has no such column{nearest(name, known)}; it has {', '.join(known)}")


def is_missing(value: Any) -> bool:
    """None, an empty text or NaN."""
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def text(value: Any) -> str:
    """A value as it is compared: whole numbers without a point, text without outer blanks."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()
