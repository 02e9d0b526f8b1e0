"""Types of label columns, and who may read what."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mri_fm.data.schema import LEDGER, MANIFEST
from mri_fm.errors import UserError
from preprocessing.place import Folder
from preprocessing.tables import label_column, read_ledger, write_ledger


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        (["1", "2", None], pa.int64(), [1, 2, None]),
        (["1", "2.5", "n/a"], pa.float64(), [1.0, 2.5, None]),
        (["1", "two", ""], pa.string(), ["1", "two", None]),
        (["99999999999999999999", "1"], pa.float64(), [1e20, 1.0]),
        (["", None], pa.int64(), [None, None]),
        (["007", "12"], pa.string(), ["007", "12"]),
        (["1_000", "2"], pa.string(), ["1_000", "2"]),
        (["inf", "2"], pa.string(), ["inf", "2"]),
        ([".5", "-1e3", "3."], pa.float64(), [0.5, -1000.0, 3.0]),
        ([".", "1.5"], pa.string(), [".", "1.5"]),
    ],
)
def test_label_columns(values: list[str | None], kind: pa.DataType, expected: list) -> None:
    column = label_column(values)
    assert column.type == kind
    assert column.to_pylist() == expected


def test_ledger_is_sorted_and_private(tmp_path: Path) -> None:
    place = Folder(tmp_path)
    assert read_ledger(place) == []
    rows = [{"source_path": p, "decision": "refused", "code": "label", "reason": "", "key": ""} for p in ("b", "a")]
    write_ledger(place, rows)
    assert [row["source_path"] for row in read_ledger(place)] == ["a", "b"]
    path = tmp_path / "private/ledger.parquet"
    assert path.stat().st_mode & 0o777 == 0o600
    assert pq.read_schema(path).equals(LEDGER)


def test_a_damaged_ledger_is_named(tmp_path: Path) -> None:
    (tmp_path / "private").mkdir()
    (tmp_path / "private/ledger.parquet").write_bytes(b"x")
    with pytest.raises(UserError, match=r"ledger.parquet is damaged"):
        read_ledger(Folder(tmp_path))


def test_manifest_schema_of_a_real_corpus(corpus: Path) -> None:
    schema = pq.read_schema(corpus / "manifest.parquet")
    assert schema.names[: len(MANIFEST)] == MANIFEST.names
    assert all(schema.field(name).type == MANIFEST.field(name).type for name in MANIFEST.names)
    assert schema.names[len(MANIFEST) :] == ["kind", "base", "scan_uid", "group"]
