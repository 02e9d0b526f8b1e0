"""Prove that no person and no anatomy is on two sides: `python -m preprocessing.check --corpus C [--splits FILES]`.

    --corpus C                  the splits train, val and test of one corpus
    --corpus C D …              several corpora, each against each
    --corpus C --splits *.csv   split files against each other, and what C pretrains on against those that evaluate

Volumes leak if they share a subject, an anatomy or their voxels by name, or look alike (`preprocessing.fingerprint`): the same
anatomy saved or resampled in another way, under whatever name. Exit code 0: proven; 2: leaks, which are listed.
"""

from __future__ import annotations

import argparse
import csv
import os
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import pyarrow as pa

from mri_fm.data.corpus import Corpus, Sample
from mri_fm.data.reader import BadSampleError, ShardReader
from mri_fm.data.split_files import read_split, resolve
from mri_fm.data.storage import open_storage
from mri_fm.errors import EXIT_USER_ERROR, UserError, run_main
from preprocessing.fingerprint import NEAR_DUPLICATE, VERSION, Floats, fingerprint, individual, load_reference
from preprocessing.leakage import Bools, Leak, Sides, Volume, describe, named_leaks, near_duplicates
from preprocessing.runner import task_runner

CACHE_FILE = "private/fingerprints.npz"
CHUNK = 16
PART = re.compile(r"(?<![a-z])(?:down)?(train|val|test)(?![a-z])")
PRETRAINING, PRETRAINS_ON = "pretraining", ("train", "val")
EVALUATES = ("val", "test")
LISTED = 20


def main() -> int:
    """Check, and return the exit code.

    Raises:
        UserError: no corpus, a damaged one, no split file, or nothing to compare.
    """
    arguments = _parser().parse_args()
    corpora = [Corpus.open(address, verify="manifest") for address in arguments.corpus]
    volumes = [volume for corpus in corpora for volume in volumes_of(corpus)]
    sides, absent = sides_of(corpora, arguments.splits)
    patterns = np.concatenate([patterns_of(corpus, arguments.workers, arguments.scheduler) for corpus in corpora])
    contrasts = [sample.contrast for corpus in corpora for sample in corpus.samples]
    people = [f"{volume.dataset} {volume.subject}" for volume in volumes]
    own = individual(patterns, contrasts, people, load_reference().shared_D)
    leaks = [*named_leaks(volumes, sides), *near_duplicates(own, volumes, sides, arguments.threshold)]
    report(leaks, volumes, sides, arguments.out, absent)
    return EXIT_USER_ERROR if leaks else 0


def volumes_of(corpus: Corpus) -> list[Volume]:
    """The volumes of a corpus in the order of its manifest."""
    table = corpus.table
    names = ("key", "dataset", "subject", "scan_uid", "base", "content_hash")
    blank = [""] * table.num_rows
    columns = [[v or "" for v in table.column(n).to_pylist()] if n in table.column_names else blank for n in names]
    return [Volume(corpus.root, *values) for values in zip(*columns, strict=True)]


def sides_of(corpora: Sequence[Corpus], files: Sequence[Path]) -> tuple[Sides, int]:
    """What must be kept apart, and how many scans of the split files no corpus has.

    Raises:
        UserError: nothing to compare.
    """
    if files:
        return _sides_of_files(pa.concat_tables([c.table for c in corpora], promote_options="permissive"), files)
    splits = np.array([sample.split for corpus in corpora for sample in corpus.samples])
    if len(corpora) > 1:
        origin = np.repeat(np.arange(len(corpora)), [len(c.samples) for c in corpora])
        members = {corpus.root: origin == number for number, corpus in enumerate(corpora)}
    else:
        members = {str(split): splits == split for split in np.unique(splits)}
    if len(members) < 2:
        raise UserError(
            f"{corpora[0].root} has the split {next(iter(members), 'none')} alone: give a second corpus or --splits"
        )
    return _sides(members, [(a, b) for a in members for b in members if a != b]), 0


def _sides_of_files(table: pa.Table, files: Sequence[Path]) -> tuple[Sides, int]:
    """Files of one family (names that differ in train, val, test alone) exclude each other, evaluation excludes pretraining."""
    members: dict[str, Bools] = {}
    families: dict[str, list[str]] = defaultdict(list)
    absent = 0
    for path in files:
        if path.name in members:
            raise UserError(f"--splits {path}: another of the files is called {path.name} too; give each a name of its own")
        found = resolve(table, read_split(path))
        absent += len(found.missing)
        members[path.name] = np.isin(np.arange(table.num_rows), found.rows)
        families[PART.sub("*", path.name)].append(path.name)
    given = [name for name in members if "pretrain" in name]
    split = np.array(table.column("split").to_pylist())
    trained = np.any([members[name] for name in given], axis=0) if given else np.isin(split, PRETRAINS_ON)
    apart = [(a, b) for family in families.values() for a in family for b in family if a != b]
    apart += [(PRETRAINING, name) for name in members if (part := PART.search(name)) and part[1] in EVALUATES]
    return _sides({PRETRAINING: trained, **{n: m for n, m in members.items() if n not in given}}, apart), absent


def _sides(members: dict[str, Bools], apart: Sequence[tuple[str, str]]) -> Sides:
    names = tuple(members)
    apart_GG = np.zeros((len(names), len(names)), bool)
    for one, other in apart:
        if one in members and other in members:
            apart_GG[names.index(one), names.index(other)] = apart_GG[names.index(other), names.index(one)] = True
    return Sides(names, np.stack(list(members.values()), axis=1), apart_GG)


def patterns_of(corpus: Corpus, workers: int, scheduler: str | None) -> Floats:
    """The patterns of all volumes in manifest order; they are kept in the corpus' private folder, if it is here.

    Raises:
        UserError: a volume cannot be read.
    """
    cache = Path(corpus.root) / CACHE_FILE
    known = _read_cache(cache)
    todo = [sample for sample in corpus.samples if _cached_name(sample) not in known]
    chunks = [(corpus.root, todo[i : i + CHUNK]) for i in range(0, len(todo), CHUNK)]
    if chunks:
        with task_runner(min(workers, len(chunks)), scheduler) as run:
            made = run(fingerprint_samples, chunks, f"fingerprints of {corpus.root}")
        known |= dict(zip(map(_cached_name, todo), [row for rows in made for row in rows], strict=True))
        _write_cache(cache, known)
    return np.stack([known[_cached_name(sample)].astype(np.float32) for sample in corpus.samples])


def _cached_name(sample: Sample) -> str:
    """Of a pattern: a build with another brain mask keeps the key of a volume, and changes its payload."""
    return f"{sample.key} {sample.checksum}"


def fingerprint_samples(task: tuple[str, Sequence[Sample]]) -> list[Floats]:
    """The patterns of some samples of the corpus at an address.

    Raises:
        UserError: one cannot be read.
    """
    address, samples = task
    with closing(open_storage(address)) as storage:
        reader, patterns = ShardReader(storage), []
        for sample in samples:
            try:
                patterns.append(fingerprint(reader.read(sample), sample.spacing))
            except BadSampleError as error:
                raise UserError(
                    f"{address}: volume {sample.key} cannot be read ({error}): restore or rebuild the corpus"
                ) from error
    return patterns


def report(leaks: Sequence[Leak], volumes: Sequence[Volume], sides: Sides, out: Path | None, absent: int) -> None:
    """Print the verdict and the first leaks; write all of them to `out`."""
    sizes = ", ".join(f"{name} {int(count)}" for name, count in zip(sides.names, sides.member_NG.sum(axis=0), strict=True))
    print(f"{len(volumes)} volumes; {sizes}; {int(sides.apart_GG.sum()) // 2} pairs of these must share nobody")
    if absent:
        print(f"{absent} scans of the split files are in none of the corpora: nothing is proven of them")
    rows = [describe(leak, volumes) for leak in leaks]
    if out is not None:
        with out.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, list(rows[0]) if rows else ["kind"], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    for row in rows[:LISTED]:
        print(
            "{kind} {similarity}: {subject_id_a} {scan_uid_a} in {group_a}, {subject_id_b} {scan_uid_b} in {group_b}".format(
                **row
            )
        )
    if len(rows) > LISTED:
        print(f"… and {len(rows) - LISTED} more{f', all in {out}' if out else ': --out FILE lists all'}")
    counts = Counter(leak.kind for leak in leaks)
    print("LEAK: " + ", ".join(f"{n} {kind}" for kind, n in counts.items()) if leaks else "proven: nobody is on two sides")


def _read_cache(path: Path) -> dict[str, Floats]:
    if not path.is_file():
        return {}
    try:
        with np.load(path) as stored:
            current = int(stored["version"]) == VERSION
            return dict(zip(stored["keys"].tolist(), stored["patterns"], strict=True)) if current else {}
    except (OSError, EOFError, ValueError, KeyError, BadZipFile):  # cut: they are computed again
        return {}


def _write_cache(path: Path, known: dict[str, Floats]) -> None:
    """Keep patterns beside a corpus that is a folder of ours; elsewhere they are computed each time."""
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        return
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, version=VERSION, keys=np.array(list(known)), patterns=np.stack(list(known.values())).astype(np.float16))
    partial.chmod(0o600)
    partial.replace(path)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m preprocessing.check", description="Prove that nobody is on two sides.")
    parser.add_argument("--corpus", nargs="+", required=True, help="one corpus, or several that must share nobody")
    parser.add_argument(
        "--splits", nargs="+", type=Path, default=(), help="split files (subject_id,scan_uid); those with 'pretrain' in their "
        "names are what is pretrained on, else it is train and val of the corpus",
    )  # fmt: skip
    parser.add_argument("--threshold", type=float, default=NEAR_DUPLICATE, help="least similarity of near-duplicates")
    parser.add_argument("--out", type=Path, help="CSV file for the leaks")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="processes on this machine")
    parser.add_argument("--scheduler", help="address of a running Dask scheduler, instead of --workers")
    return parser


if __name__ == "__main__":
    run_main(main)
