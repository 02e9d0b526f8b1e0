"""`python -m preprocessing.ledger show N --corpus C`: which file is behind a row of the ledger, for its owner."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mri_fm.data.schema import LEDGER_FILE
from mri_fm.errors import UserError, run_main
from mri_fm.volume.refusal import CODES
from preprocessing.place import Folder, open_place
from preprocessing.tables import read_ledger

OTHERS = 0o077


def main() -> None:
    """Show one row.

    Raises:
        UserError: there is no such row, or the ledger may not be read.
    """
    parser = argparse.ArgumentParser(prog="python -m preprocessing.ledger", description=__doc__.split(": ", 1)[1])
    commands = parser.add_subparsers(required=True, metavar="show")
    show_parser = commands.add_parser("show", help="print a row: what was decided on which file, and what to do about it")
    show_parser.add_argument("row", help="number of the row, as in report.html, or the key of an accepted volume")
    show_parser.add_argument("--corpus", required=True, help="folder or s3://bucket/prefix")
    arguments = parser.parse_args()
    print(show(arguments.corpus, arguments.row))


def show(corpus: str, row: str) -> str:
    """A row of the ledger as text.

    Args:
        corpus: folder or s3://bucket/prefix.
        row: its number from 0, or a key.

    Raises:
        UserError: there is no such row, or the ledger may not be read.
    """
    place = open_place(corpus)
    if isinstance(place, Folder):
        _check_mode(place.path / LEDGER_FILE)
    try:
        rows = read_ledger(place)
    except PermissionError as error:
        raise UserError(f"{place.address}/{LEDGER_FILE} is for the owner of the corpus alone: ask them") from error
    chosen = {number: r for number, r in enumerate(rows) if row in (str(number), r["key"])}
    if not chosen:
        raise UserError(f"'{row}' is no row of the ledger, which has {len(rows)}, and no key in it")
    return "\n".join(_lines(number, chosen[number]) for number in sorted(chosen))


def _lines(number: int, row: dict[str, str]) -> str:
    about = [("file", row["source_path"]), ("decision", row["decision"]), ("key", row["key"])]
    if code := CODES.get(row["code"]):
        about += [("code", f"{row['code']}: {code.meaning}"), ("reason", row["reason"]), ("what to do", code.remedy)]
    return "\n".join([f"row {number}", *(f"  {name}: {text}" for name, text in about if text)])


def _check_mode(path: Path) -> None:
    """A ledger that others may read has leaked already: say so."""
    try:
        mode = path.stat().st_mode
    except PermissionError as error:
        raise UserError(f"{path} is for the owner of the corpus alone: ask them") from error
    except FileNotFoundError as error:
        raise UserError(f"there is no {path}: corpora are copied without their ledger, ask whoever built it") from error
    if mode & OTHERS:
        print(f"{path} may be read by others: chmod 600 {path}", file=sys.stderr)


if __name__ == "__main__":
    run_main(main)
