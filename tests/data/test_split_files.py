"""Published split files: what is written is read, and each name finds its volumes or is reported."""

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mri_fm.data.split_files import read_split, resolve, same_subject, scan_names, write_split
from mri_fm.errors import UserError

NAMES = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=9)


def manifest(*rows: tuple[str, str, str | None, str | None]) -> pa.Table:
    return pa.table(
        dict(zip(("key", "subject", "scan_uid", "duplicate_uids"), map(list, zip(*rows, strict=True)), strict=True))
    )


@given(st.lists(st.tuples(NAMES, NAMES), unique=True))
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, scans: list[tuple[str, str]]) -> None:
    path = tmp_path_factory.mktemp("splits") / "a_train_ids.csv"
    write_split(path, scans)
    assert read_split(path) == scans
    assert path.read_text().startswith("subject_id,scan_uid\n")


def test_a_name_finds_all_its_volumes_and_the_duplicate_that_was_kept() -> None:
    table = manifest(
        ("k0", "02597", "BraTS-GLI-02597-100", None), ("k1", "02597", "BraTS-GLI-02597-100", None),
        ("k2", "003_S_1257", "I10", "I11 I12"), ("k3", "anon-1", None, None), ("k4", "159", "I159", None),
        ("k5", "00007", "00007", None),
    )  # fmt: skip
    assert scan_names(table)[3] == ("anon-1", "k3")
    found = resolve(table, [("2597", "BraTS-GLI-02597-100"), ("003_S_1257", "I12"), ("anon-1", "k3"), ("Unknown", "00007")])
    assert (found.rows, found.missing) == ((0, 1, 2, 3, 5), ())
    found = resolve(table, [("160", "I159"), ("159", "I10"), ("9", "I9"), ("159", "I159")])
    assert found.rows == (4,)
    assert found.missing == (
        (("160", "I159"), "here a scan of 159"), (("159", "I10"), "here a scan of 003_S_1257"), (("9", "I9"), ""))  # fmt: skip


@given(st.integers(0, 99_999))
def test_leading_zeros_do_not_count(number: int) -> None:
    assert same_subject(str(number), f"{number:05d}")
    assert not same_subject(str(number + 1), f"{number:05d}")
    assert not same_subject(f"0{number}_S_1", f"{number}_S_1")


def test_columns_may_stand_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("\ufeffscan_uid,label, subject_id\r\nI1,0,a\r\n\r\nI2,1,a\r\n")
    assert read_split(path) == [("a", "I1"), ("a", "I2")]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("subject,scan\na,b\n", "must have the columns subject_id,scan_uid; it has subject,scan"),
        ("", "it has none"),
        ("subject_id,scan_uid\na\n", "line 2: a value is missing"),
        ("subject_id,scan_uid\na,\n", "line 2: a value is missing"),
        ("subject_id,scan_uid\na,b\na,b\n", "line 3: b of a stands in line 2 already"),
    ],
)
def test_bad_files_name_the_line(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=words):
        read_split(path)
    with pytest.raises(UserError, match="cannot be read"):
        read_split(tmp_path / "absent.csv")
