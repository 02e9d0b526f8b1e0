"""What is known of an input besides its voxels: data set, person, session, contrast, labels.

Sources, the first that speaks wins: `labels.csv` at the raw root; a BIDS tree with its participants.tsv; file name and JSON
sidecar. Persons, sessions and trees that labels.csv does not name get pseudonyms under a secret key (`preprocessing.privacy`).
"""

from __future__ import annotations

import csv
import json
import re
import sys
from collections import defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from mri_fm.data.schema import CONTRASTS, MANIFEST
from mri_fm.errors import UserError
from preprocessing.discover import Input, image_stem
from preprocessing.privacy import pseudonym, public_columns, public_dataset, public_session

LABELS_FILE = "labels.csv"
PHANTOM = "phantom"  # an object or a test pattern, no brain
KINDS = ("individual", "template", "variant", "format_sample", PHANTOM)
KNOWN_COLUMNS = ("dataset", "subject", "session", "contrast", "kind", "base")
MISSING_VALUES = ("", "n/a", "na", "nan", "null", "none")
UNKNOWN_DATASET = "unknown"
CONTRAST_FIELDS = ("SeriesDescription", "ProtocolName", "SequenceName", "PulseSequenceName")
BIDS_PATH = re.compile(r"^(?:(?P<root>.*?)/)?(?P<subject>sub-[A-Za-z0-9]+)/(?:(?P<session>ses-[A-Za-z0-9]+)/)?")
CONTRAST_RULES = (
    ("FLAIR", re.compile(r"flair")),
    ("T2STAR", re.compile(r"\bt2\*|\b(t2)?star(w)?\b|\bgre\b")),
    ("T1", re.compile(r"mprage|fspgr|\bir\b|\bt1(w|n|c|ce|gd)?\b")),
    ("T2", re.compile(r"\bt2(w|f)?\b|\bspace\b")),
)


@dataclass(frozen=True)
class Knowledge:
    """What is known of one input; `contrast` is "" until a source names it, `labels` are as found."""

    dataset: str
    subject: str
    session: str = ""
    contrast: str = ""
    kind: str = "individual"
    base: str = ""
    labels: dict[str, str] = field(default_factory=dict)


def know(raw: Path, inputs: list[Input], key: bytes) -> dict[str, Knowledge]:
    """Gather what is known of every input, by source path.

    Args:
        raw: the raw folder.
        inputs: what `find_inputs` found there.
        key: secret of the pseudonyms.

    Raises:
        UserError: a row of labels.csv that is wrong, by its line number.
    """
    rows = read_labels(raw / LABELS_FILE, inputs)
    participants: dict[str, dict[str, dict[str, str]]] = {}
    found = {}
    for item in inputs:
        knowledge = _from_bids(raw, item, key, participants) or _from_name(item, key)
        knowledge = _apply_row(knowledge, rows.get(item.source_path, {}))
        contrast = knowledge.contrast or contrast_of(PurePosixPath(image_stem(item.source_path)).name, sidecar(raw, item))
        found[item.source_path] = replace(knowledge, contrast=contrast)
    return _with_bases(found)


def contrast_of(name: str, fields: dict[str, str]) -> str:
    """The contrast by keywords of a file name, else of a header's or sidecar's descriptions; "" if neither tells."""
    for text in (name, *(fields[f] for f in CONTRAST_FIELDS if f in fields)):
        words = re.sub(r"[^a-z0-9*]+", " ", text.lower())
        for contrast, rule in CONTRAST_RULES:
            if rule.search(words):
                return contrast
    return ""


def sidecar(raw: Path, item: Input) -> dict[str, str]:
    """The text fields of the JSON file beside an image; {} where there is none or it cannot be read."""
    path = raw / f"{image_stem(item.files[0])}.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8", errors="replace"))
    except (OSError, ValueError):
        return {}
    return {k: str(v) for k, v in content.items() if isinstance(v, str | int | float)} if isinstance(content, dict) else {}


def read_labels(path: Path, inputs: list[Input]) -> dict[str, dict[str, str]]:
    """Read labels.csv: source path → its row. A path may name the input, or any one file of a series.

    Raises:
        UserError: no column `path`, a reserved column, an unknown or repeated path, or a value that is not allowed.
    """
    if not path.is_file():
        return {}
    columns, lines = _read_table(path, ",")
    _check_columns(path, columns)
    names = {name: item.source_path for item in inputs for name in (*item.files, item.source_path)}
    rows: dict[str, dict[str, str]] = {}
    for number, row in lines:
        source = names.get(row["path"])
        _check_row(f"{path}, line {number}", row, source, rows)
        rows[str(source)] = {k: v.strip() for k, v in row.items() if k != "path" and v}
    return rows


def _read_table(path: Path, delimiter: str) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """The columns of a table, and its rows with their line numbers."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, delimiter=delimiter)
            rows = [(reader.line_num, row) for row in reader]
            return list(reader.fieldnames or []), rows
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is no table in UTF-8 ({error}): save it as such") from error


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


def _apply_row(knowledge: Knowledge, row: dict[str, str]) -> Knowledge:
    known = {k: row[k] for k in KNOWN_COLUMNS if row.get(k)}
    labels = {k: v for k, v in row.items() if k not in KNOWN_COLUMNS}
    return replace(knowledge, **known, labels={**knowledge.labels, **labels})


def _from_bids(raw: Path, item: Input, key: bytes, participants: dict[str, dict[str, dict[str, str]]]) -> Knowledge | None:
    """Pseudonyms of root, subject and session of a BIDS path; None where the path is none."""
    match = BIDS_PATH.match(item.files[0])
    if match is None:
        return None
    root, person = match["root"] or "", match["subject"]
    if root not in participants:
        participants[root] = _read_participants(raw / root / "participants.tsv")
    subject = pseudonym(key, f"bids {root} {person}")
    dataset = public_dataset(key, root, PurePosixPath(root).name or raw.resolve().name)
    session = public_session(key, subject, match["session"] or "")
    return Knowledge(dataset, subject, session, labels=participants[root].get(person, {}))


def _read_participants(path: Path) -> dict[str, dict[str, str]]:
    """Label columns by participant, those that say who somebody is left out; a column that the manifest has is renamed."""
    if not path.is_file():
        return {}
    people = {}
    for _, row in _read_table(path, "\t")[1]:
        name = (row.get("participant_id") or "").strip()
        values = {k: (v or "").strip() for k, v in row.items() if k and k != "participant_id"}
        people[name if name.startswith("sub-") else f"sub-{name}"] = values
    present = [{k: "" if v.lower() in MISSING_VALUES else v for k, v in values.items()} for values in people.values()]
    public = public_columns(present)
    if left := sorted({column for values in people.values() for column in values} - set(public)):
        print(f"{path}: {', '.join(left)} stay behind, as they may name people; labels.csv may pass them on", file=sys.stderr)
    taken = {*MANIFEST.names, "kind", "base"}
    names = {column: f"participant_{column}" if column in taken else column for column in public}
    return {person: {names[k]: v for k, v in values.items() if k in names} for person, values in people.items()}


def _from_name(item: Input, key: bytes) -> Knowledge:
    """A pseudonym of the patient, else of the path without its words for the contrast, so that T1 and T2 stay together."""
    if item.person:
        return Knowledge(UNKNOWN_DATASET, pseudonym(key, f"person {item.person}"))
    stem = PurePosixPath(image_stem(item.source_path))
    words = [word for word in re.split(r"[_\-. ]+", stem.name) if word and not contrast_of(word, {})]
    identity = str(stem.parent / "-".join(words)) if words else str(stem.parent)
    return Knowledge(UNKNOWN_DATASET, pseudonym(key, f"path {identity}"))


def _with_bases(found: dict[str, Knowledge]) -> dict[str, Knowledge]:
    """Fill `base` with the subject; where two data sets use one name for two people, with both names."""
    datasets = defaultdict(set)
    for knowledge in found.values():
        datasets[knowledge.subject].add(knowledge.dataset)
    return {
        path: replace(k, base=k.base or (k.subject if len(datasets[k.subject]) == 1 else f"{k.dataset}/{k.subject}"))
        for path, k in found.items()
    }
