"""Reading the tables that come with data sets."""

from __future__ import annotations

import csv
from pathlib import Path

import pyarrow as pa
import pyarrow.csv

from mri_fm.errors import UserError

Row = dict[str, str]
MISSING_VALUES = ("", "n/a", "na", "nan", "null", "none")


def read_table(path: Path, delimiter: str) -> tuple[list[str], list[tuple[int, Row]]]:
    """The columns of a table, and its rows with their line numbers.

    Raises:
        UserError: it is no table in UTF-8.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, delimiter=delimiter)
            rows = [(reader.line_num, row) for row in reader]
            return list(reader.fieldnames or []), rows
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is no table in UTF-8 ({error}): save it as such") from error


def read_columns(path: Path, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> list[Row]:
    """Some columns of a CSV file as stripped text, "" where a value is missing. Fast where there are thousands of columns.

    Raises:
        UserError: it is no table in UTF-8, or lacks a required column.
    """
    parse = pa.csv.ParseOptions(newlines_in_values=True)
    names = [*required, *optional]
    convert = pa.csv.ConvertOptions(
        include_columns=names, include_missing_columns=True, column_types={name: pa.string() for name in names}
    )
    try:
        with pa.csv.open_csv(path, parse_options=parse) as stream:
            present = stream.schema.names
        table = pa.csv.read_csv(path, parse_options=parse, convert_options=convert)
    except ValueError as error:  # ArrowInvalid is one
        raise UserError(f"{path} is no table in UTF-8 with commas ({str(error).splitlines()[0]}): save it as such") from error
    absent = [name for name in required if name not in present]
    if absent:
        raise UserError(f"{path} lacks the column {absent[0]}: take the table as its data set publishes it")
    return [{name: _clean(value) for name, value in row.items()} for row in table.to_pylist()]


def _clean(value: str | None) -> str:
    text = (value or "").strip()
    return "" if text.lower() in MISSING_VALUES else text
