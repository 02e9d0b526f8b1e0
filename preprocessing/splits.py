"""Subject-level splits of a labelled corpus, written and read as published split files.

    python -m preprocessing.splits make --corpus C --label naccudsd --classes 1 4 --by sex --out DIR --name scan_nc_vs_ad
    python -m preprocessing.splits import --corpus C DIR/*.csv --out DIR

`make` writes NAME_train_ids.csv, NAME_val_ids.csv and NAME_test_ids.csv, with --folds 5 NAME_fold0_train_ids.csv and so on.
`import` finds the scans of split files in a corpus, writes which volume is in which split, and which scans are missing.
"""

from __future__ import annotations

import argparse
import csv
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mri_fm.data.corpus import Corpus
from mri_fm.data.split_files import read_split, resolve, scan_names, write_split
from mri_fm.errors import UserError, nearest, run_main
from mri_fm.rng import Stream, generator
from preprocessing.datasets.adapter import PRETRAINING_ONLY

PARTS = ("train", "val", "test")
INDIVIDUAL = "individual"  # `kind` of the volumes that are split: renderings and templates are nobody's


@dataclass(frozen=True)
class Plan:
    """What is split and how.

    Attributes:
        label: column of the classes; subjects are stratified by it.
        classes: values of it to keep; empty: all.
        datasets, contrasts: keep these; empty: all.
        by: further columns to stratify by.
        fractions: shares of subjects in train, val and test; with folds the test share is 1/folds and the share of val is that
            of what remains.
        folds: 0, or how many folds; each subject is tested in one.
        seed: of the draw.
    """

    label: str
    classes: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    contrasts: tuple[str, ...] = ()
    by: tuple[str, ...] = ()
    fractions: tuple[float, float, float] = (0.7, 0.15, 0.15)
    folds: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.fractions) < 0 or self.fractions[0] <= 0 or abs(sum(self.fractions) - 1) > 1e-6:
            raise UserError(
                f"--fractions {' '.join(f'{f:g}' for f in self.fractions)} must be at least 0, sum to 1 and leave some to train"
            )
        if self.folds < 0 or self.folds == 1:
            raise UserError(f"--folds {self.folds} must be at least 2")


def make_splits(table: pa.Table, plan: Plan) -> list[dict[str, list[int]]]:
    """Draw splits: for each fold (one without folds) the rows of the manifest in each of `PARTS`.

    A pure function of the subjects, their strata and the seed: the order of the manifest's rows does not matter.

    Raises:
        UserError: no such column, no volume left, or fewer subjects than parts.
    """
    rows = select(table, plan)
    strata = _strata(table, rows, plan)
    parts = max(plan.folds, sum(f > 0 for f in plan.fractions))
    if len(strata) < parts:
        raise UserError(f"{len(strata)} subjects have a value in '{plan.label}', too few for {parts} parts")
    if not plan.folds:
        return [_rows_of(rows, dict(zip(PARTS, draw(strata, plan.fractions, plan.seed, 0), strict=True)))]
    tested = draw(strata, [1 / plan.folds] * plan.folds, plan.seed, 0)
    remains = (plan.fractions[0], plan.fractions[1])
    folds = []
    for number, test in enumerate(tested):
        others = {subject: stratum for subject, stratum in strata.items() if subject not in test}
        train, val = draw(others, [f / sum(remains) for f in remains], plan.seed, 1 + number)
        folds.append(_rows_of(rows, {"train": train, "val": val, "test": test}))
    return folds


def draw(strata: dict[Any, tuple[str, ...]], fractions: Sequence[float], seed: int, position: int) -> list[set[Any]]:
    """Share subjects out so that every part has its fraction of every stratum, and of all, up to rounding.

    The subjects go in random order within their stratum, stratum after stratum, each to the part that is furthest behind its
    fraction, so that every part stays about one subject from it all the way, and in every stretch of the way about two.

    Args:
        strata: the stratum of each subject.
        fractions: of the parts, summing to 1.
        seed: of the order.
        position: which draw of that seed.
    """
    subjects = sorted(strata)
    order = generator(seed, Stream.SPLIT, position).permutation(len(subjects))
    shuffled = sorted((subjects[i] for i in order), key=lambda subject: strata[subject])
    share_P = np.asarray(fractions, np.float64)
    held_P = np.zeros(len(fractions))
    parts: list[set[Any]] = [set() for _ in fractions]
    for number, subject in enumerate(shuffled):
        part = int(np.argmax(share_P * (number + 1) - held_P))
        held_P[part] += 1
        parts[part].add(subject)
    return parts


def select(table: pa.Table, plan: Plan) -> dict[tuple[str, str], list[int]]:
    """The rows to be split, by (data set, subject).

    Raises:
        UserError: no such column, or no row left.
    """
    label = _column(table, plan.label, "--label")
    names = ("dataset", "subject", "contrast", "kind", PRETRAINING_ONLY)
    columns = {name: table.column(name).to_pylist() for name in names if name in table.column_names}
    allowed = {"dataset": plan.datasets, "contrast": plan.contrasts, "kind": (INDIVIDUAL,), PRETRAINING_ONLY: (0, None)}
    checks = [(columns[name], values) for name, values in allowed.items() if values and name in columns]
    rows = defaultdict(list)
    for row, value in enumerate(label):
        if value and (not plan.classes or value in plan.classes) and all(column[row] in ok for column, ok in checks):
            rows[columns["dataset"][row], columns["subject"][row]].append(row)
    if not rows:
        raise UserError(f"--label {plan.label}: no volume of the corpus has such a value, data set and contrast")
    return dict(rows)


def _column(table: pa.Table, name: str, flag: str) -> list[str]:
    """A column as text, "" where a value is missing; whole numbers without a point."""
    if name not in table.column_names:
        raise UserError(f"{flag} {name}: the manifest has no such column{nearest(name, table.column_names)}")
    return [
        "" if v is None else str(int(v)) if isinstance(v, float) and v.is_integer() else str(v)
        for v in table.column(name).to_pylist()
    ]


def _strata(table: pa.Table, rows: dict[tuple[str, str], list[int]], plan: Plan) -> dict[tuple[str, str], tuple[str, ...]]:
    """Each subject's most frequent label (the greatest of equals), and its least value in each column of `by`."""
    label = _column(table, plan.label, "--label")
    further = [_column(table, name, "--by") for name in plan.by]
    strata = {}
    for subject, numbers in rows.items():
        counts = Counter(label[row] for row in numbers)
        main = max(counts, key=lambda value: (counts[value], value))
        strata[subject] = (main, *(min(column[row] for row in numbers) for column in further))
    return strata


def _rows_of(rows: dict[tuple[str, str], list[int]], parts: dict[str, set[tuple[str, str]]]) -> dict[str, list[int]]:
    return {part: sorted(row for subject in subjects for row in rows[subject]) for part, subjects in parts.items()}


def file_name(name: str, part: str, fold: int | None) -> str:
    """`NAME_train_ids.csv`, `NAME_fold0_train_ids.csv`; `{fold}` in the name is replaced instead."""
    if fold is not None:
        name = name.replace("{fold}", str(fold)) if "{fold}" in name else f"{name}_fold{fold}"
    return f"{name}_{part}_ids.csv"


def write_splits(out: Path, name: str, table: pa.Table, splits: list[dict[str, list[int]]], folds: bool) -> list[Path]:
    """Write each part as a split file; parts that hold nothing are left out."""
    out.mkdir(parents=True, exist_ok=True)
    scans = scan_names(table)
    written = []
    for fold, parts in enumerate(splits):
        for part, rows in parts.items():
            if rows:
                path = out / file_name(name, part, fold if folds else None)
                write_split(path, sorted(scans[row] for row in rows))
                written.append(path)
    return written


def import_splits(table: pa.Table, files: Sequence[Path], out: Path) -> list[str]:
    """Find the scans of split files; write `assignments.csv` (split, key, subject_id, scan_uid) and `missing.csv`.

    Returns:
        One line per file for the terminal.

    Raises:
        UserError: a file that is no split file, or none of whose scans is here.
    """
    names, keys = scan_names(table), table.column("key").to_pylist()
    assigned: list[tuple[str, ...]] = []
    missing: list[tuple[str, ...]] = []
    lines = []
    for path in files:
        scans = read_split(path)
        found = resolve(table, scans)
        if scans and not found.rows:
            raise UserError(f"{path}: the corpus has none of its {len(scans)} scans; is it a split of this data set?")
        assigned += [(path.stem, keys[row], *names[row]) for row in found.rows]
        missing += [(path.stem, *scan, note) for scan, note in found.missing]
        there = len(scans) - len(found.missing)
        lines.append(
            f"{path.name}: {there} of {len(scans)} scans here ({len(found.rows)} volumes), {len(found.missing)} missing"
        )
    out.mkdir(parents=True, exist_ok=True)
    _write_rows(out / "assignments.csv", ("split", "key", "subject_id", "scan_uid"), assigned)
    _write_rows(out / "missing.csv", ("split", "subject_id", "scan_uid", "note"), missing)
    return lines


def _write_rows(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, lineterminator="\n").writerows([header, *rows])


def main() -> None:
    """Run one of the commands.

    Raises:
        UserError: see `make_splits` and `import_splits`.
    """
    arguments = _parser().parse_args()
    table = Corpus.open(arguments.corpus, verify="manifest", shards=False).table
    if arguments.command == "import":
        print("\n".join(import_splits(table, arguments.files, arguments.out)))
        print(f"{arguments.out}: assignments.csv, missing.csv")
        return
    names = ("classes", "datasets", "contrasts", "by", "fractions")
    lists = {name: tuple(getattr(arguments, name)) for name in names}
    plan = Plan(arguments.label, folds=arguments.folds, seed=arguments.seed, **lists)
    splits = make_splits(table, plan)
    written = write_splits(arguments.out, arguments.name, table, splits, bool(plan.folds))
    for fold, parts in enumerate(splits):
        people = {part: len({table.column("subject")[row].as_py() for row in rows}) for part, rows in parts.items()}
        sizes = ", ".join(f"{part} {people[part]} subjects ({len(rows)} volumes)" for part, rows in parts.items())
        print(f"fold {fold}: {sizes}" if plan.folds else sizes)
    print(f"{len(written)} files in {arguments.out}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m preprocessing.splits", description="Subject-level splits as CSV files.")
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("make", help="draw splits of the labelled volumes")
    make.add_argument("--label", required=True, help="column of the manifest with the classes")
    make.add_argument("--classes", nargs="+", default=(), help="values of it to keep, e.g. 1 4 (default: all)")
    make.add_argument("--datasets", nargs="+", default=(), help="data sets to keep (default: all)")
    make.add_argument("--contrasts", nargs="+", default=(), help="contrasts to keep (default: all)")
    make.add_argument("--by", nargs="+", default=(), help="further columns to stratify by, e.g. site sex")
    make.add_argument("--fractions", nargs=3, type=float, default=(0.7, 0.15, 0.15), help="of subjects in train, val, test")
    make.add_argument("--folds", type=int, default=0, help="folds, each subject tested in one (default: a single split)")
    make.add_argument("--seed", type=int, default=0)
    make.add_argument("--name", required=True, help="how the files begin; {fold} stands for the fold")
    bring = commands.add_parser("import", help="find the scans of split files in the corpus")
    bring.add_argument("files", nargs="+", type=Path, help="CSV files with the columns subject_id,scan_uid")
    for command in (make, bring):
        command.add_argument("--corpus", required=True, help="its folder, or s3://bucket/prefix")
        command.add_argument("--out", type=Path, required=True, help="folder for the files to be written")
    return parser


if __name__ == "__main__":
    run_main(main)
