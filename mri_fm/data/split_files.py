"""Split files as they are published: CSV with the columns `subject_id,scan_uid`, one file per split, no labels.

A scan's name is `scan_uid` of the manifest where its data set names scans, else its `key`. A name may stand for several volumes
(the four images of a BraTS session), and a volume for several names (duplicates of which one was kept).
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from mri_fm.errors import UserError

COLUMNS = ("subject_id", "scan_uid")
UNKNOWN_SUBJECT = "unknown"  # in published files of data sets without subjects: matches any
Scan = tuple[str, str]
"""(subject_id, scan_uid)."""


@dataclass(frozen=True)
class Resolved:
    """A split file on a corpus.

    Attributes:
        rows: numbers of the manifest's rows, in the order of the file.
        missing: scans of the file that the corpus lacks, each with what is known: "" or whose scan of that name it has.
    """

    rows: tuple[int, ...]
    missing: tuple[tuple[Scan, str], ...]


def read_split(path: Path) -> list[Scan]:
    """The scans of a split file, in its order.

    Raises:
        UserError: no such file, other columns, a row without a value, or one that stands twice.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream)
            header = [name.strip() for name in next(reader, [])]
            lines = [(reader.line_num, [value.strip() for value in line]) for line in reader if line]
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): give a split file") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is no table in UTF-8 ({error}): save it as such") from error
    if any(name not in header for name in COLUMNS):
        raise UserError(f"{path} must have the columns {','.join(COLUMNS)}; it has {','.join(header) or 'none'}")
    places = [header.index(name) for name in COLUMNS]
    scans: dict[Scan, int] = {}
    for number, line in lines:
        if len(line) != len(header) or not all(line[place] for place in places):
            raise UserError(f"{path}, line {number}: a value is missing, give {' and '.join(COLUMNS)}")
        scan = (line[places[0]], line[places[1]])
        if scan in scans:
            raise UserError(f"{path}, line {number}: {scan[1]} of {scan[0]} stands in line {scans[scan]} already, remove one")
        scans[scan] = number
    return list(scans)


def write_split(path: Path, scans: Iterable[Scan]) -> None:
    """Write a split file; a name that stands for several volumes is written once."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, lineterminator="\n").writerows([COLUMNS, *dict.fromkeys(scans)])


def scan_names(table: pa.Table) -> list[Scan]:
    """What each row of a manifest is called in split files."""
    uids = table.column("scan_uid").to_pylist() if "scan_uid" in table.column_names else [None] * table.num_rows
    keys, subjects = table.column("key").to_pylist(), table.column("subject").to_pylist()
    return [(subject, uid or key) for subject, uid, key in zip(subjects, uids, keys, strict=True)]


def resolve(table: pa.Table, scans: Sequence[Scan]) -> Resolved:
    """Find the volumes that split files name.

    Args:
        table: the manifest.
        scans: as `read_split` gives them. Subjects are compared without leading zeros, since published files drop them.
    """
    named = _rows_by_uid(table)
    subjects = table.column("subject").to_pylist()
    rows: dict[int, None] = {}
    missing = []
    for subject, uid in scans:
        found = [row for row in named.get(uid, ()) if same_subject(subject, subjects[row])]
        rows.update(dict.fromkeys(found))
        if not found:
            others = sorted({subjects[row] for row in named.get(uid, ())})
            missing.append(((subject, uid), f"here a scan of {', '.join(others)}" if others else ""))
    return Resolved(tuple(rows), tuple(missing))


def _rows_by_uid(table: pa.Table) -> dict[str, list[int]]:
    rows = defaultdict(list)
    for row, (_, uid) in enumerate(scan_names(table)):
        rows[uid].append(row)
    if "duplicate_uids" in table.column_names:
        for row, uids in enumerate(table.column("duplicate_uids").to_pylist()):
            for uid in (uids or "").split():
                rows[uid].append(row)
    return rows


def same_subject(published: str, ours: str) -> bool:
    """Whether a published subject is this one: leading zeros do not count, and "Unknown" is anybody."""
    if published.lower() == UNKNOWN_SUBJECT or published == ours:
        return True
    return published.isdecimal() and ours.isdecimal() and int(published) == int(ours)
