"""The tables of a corpus: manifest, private ledger, corpus.json."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from mri_fm.data.schema import CORPUS_FILE, LEDGER, LEDGER_FILE, MANIFEST, MANIFEST_FILE
from mri_fm.errors import UserError
from preprocessing.datasets.table import MISSING_VALUES
from preprocessing.place import Place

NUMBERS = ((re.compile(r"-?(0|[1-9]\d*)"), int, pa.int64()),
           (re.compile(r"-?((0|[1-9]\d*)(\.\d*)?|\.\d+)(e[-+]?\d+)?", re.IGNORECASE), float, pa.float64()))  # fmt: skip
LAYOUT_HASH = b"mri_fm.layout"  # of the manifest's metadata
OWN_COLUMNS = ("kind", "base", "scan_uid")  # of every manifest, beside those of the schema
TEXT_COLUMNS = (*OWN_COLUMNS, "duplicate_uids", "rendering")  # names, even where they look like numbers


def write_manifest(place: Place, rows: Sequence[dict[str, Any]], spec_hash: str) -> None:
    """Write manifest.parquet.

    Args:
        place: the corpus.
        rows: the columns of `MANIFEST`, `OWN_COLUMNS`, and label columns as text; a column that some rows lack is null there.
        spec_hash: of the specification that laid out the shards; a hash over it and the layout goes into the file's metadata.
    """
    table = pa.Table.from_pylist([{name: row[name] for name in MANIFEST.names} for row in rows], MANIFEST)
    names = {name: None for row in rows for name in row if name not in MANIFEST.names}
    for name in [*OWN_COLUMNS, *(n for n in sorted(names) if n not in OWN_COLUMNS)]:
        values = [row.get(name) for row in rows]
        table = table.append_column(name, pa.array(values, pa.string()) if name in TEXT_COLUMNS else label_column(values))
    _write_parquet(place, MANIFEST_FILE, table.replace_schema_metadata({LAYOUT_HASH: _layout_hash(table, spec_hash)}))


def read_layout(place: Place, spec_hash: str) -> dict[str, list[str]]:
    """The keys of each shard (name without suffix) of an earlier build, in order; {} where none was made under this spec."""
    try:
        content = place.read(MANIFEST_FILE)
    except FileNotFoundError:
        return {}
    try:
        table = pq.read_table(pa.BufferReader(content))
    except (pa.ArrowInvalid, OSError):  # damaged
        return {}
    if (table.schema.metadata or {}).get(LAYOUT_HASH) != _layout_hash(table, spec_hash):
        return {}
    shards: dict[str, list[str]] = {}
    for row in _places(table):
        shards.setdefault(row["shard"].removesuffix(".tar"), []).append(row["key"])
    return shards


def _layout_hash(table: pa.Table, spec_hash: str) -> bytes:
    return xxhash.xxh3_128_hexdigest(json.dumps([spec_hash, _places(table)]).encode()).encode()


def _places(table: pa.Table) -> list[dict[str, Any]]:
    """Which key lies where, in order."""
    columns = ("shard", "offset", "key")
    return table.select(columns).sort_by([(name, "ascending") for name in columns]).to_pylist()


def write_ledger(place: Place, rows: Sequence[dict[str, str]]) -> None:
    """Write private/ledger.parquet, one row per input in the order of source paths, readable by the owner only."""
    _write_parquet(place, LEDGER_FILE, pa.Table.from_pylist(sorted(rows, key=lambda row: row["source_path"]), LEDGER))


def read_ledger(place: Place) -> list[dict[str, str]]:
    """The rows of the ledger; [] where there is none.

    Raises:
        UserError: it is damaged.
    """
    try:
        return pq.read_table(pa.BufferReader(place.read(LEDGER_FILE))).to_pylist()
    except FileNotFoundError:
        return []
    except pa.ArrowInvalid as error:
        path = f"{place.address}/{LEDGER_FILE}"
        raise UserError(
            f"{path} is damaged: restore it, or remove it to let the first source path of equal scans stay"
        ) from error


def write_corpus_file(place: Place, content: dict[str, Any]) -> None:
    """Write corpus.json, which makes a corpus complete."""
    place.write(CORPUS_FILE, (json.dumps(content, indent=1) + "\n").encode())


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


def _write_parquet(place: Place, name: str, table: pa.Table) -> None:
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer)
    place.write(name, buffer.getvalue().to_pybytes())
