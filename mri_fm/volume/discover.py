"""Find the inputs of a raw folder: every file, or DICOM series, that could be a scan."""

from __future__ import annotations

import os
import stat
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import xxhash

from mri_fm.errors import UserError
from mri_fm.volume.dicom import is_dicom, series_tags
from mri_fm.volume.readers import NAMES_VOXELS, named_voxels
from mri_fm.volume.statements import sidecar_of

TEXT_SUFFIXES = {".csv", ".tsv", ".txt", ".md", ".rst", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".bval", ".bvec"}
TEXT_NAMES = {"readme", "license", "licence", "changes", "copying", "authors", "dicomdir"}
HEADERS_OF = {".img": (".hdr",), ".brik": (".head",), ".rec": (".par",)}


@dataclass(frozen=True)
class Input:
    """One candidate scan.

    Attributes:
        source_path: its name in the ledger: posix, relative to the raw folder; bytes that are no UTF-8 appear as `\\xe9`.
        files: relative paths; several for a DICOM series.
        series: whether to read it as DICOM.
        person: PatientID of a DICOM series, else "".
        companions: relative paths of files that are read with it: a header's voxels, the sidecar, b-values.
    """

    source_path: str
    files: tuple[str, ...]
    series: bool = False
    person: str = ""
    companions: tuple[str, ...] = ()


def list_files(raw: Path) -> dict[str, tuple[int, int]]:
    """All files below `raw`: relative posix path → (size, mtime in ns), in name order. Links are followed, circles are not.

    Raises:
        UserError: a folder that may not be listed.
    """
    found = {path.relative_to(raw).as_posix(): _size_and_time(path) for path in _walk(raw, set())}
    return dict(sorted(found.items()))


def _size_and_time(path: Path) -> tuple[int, int]:
    """(-1, 0) for a dangling link, a pipe and the like: inputs too, which will be refused."""
    try:
        state = path.stat()
    except OSError:
        return (-1, 0)
    return (state.st_size, state.st_mtime_ns) if stat.S_ISREG(state.st_mode) else (-1, 0)


def find_inputs(raw: Path, files: dict[str, tuple[int, int]]) -> list[Input]:
    """Group the files of `list_files` into inputs, ordered by source path."""
    lower = {path.lower() for path in files}
    named = _named_voxels(raw, files)
    voxels: dict[str, list[str]] = defaultdict(list)
    candidates = []
    for path in files:
        headers = headers_of(path, lower) + named.get(path, [])
        for header in headers:
            voxels[header].append(path)
        if not headers and not is_text(path):
            candidates.append(path)
    series, inputs = _group_series(raw, candidates, files)
    taken = [PurePosixPath(path).parent for path in (*inputs, *(members[0] for members, _ in series))]
    found = [Input(printable(path), (path,), companions=(*voxels[path.lower()], *_beside(path, files))) for path in inputs]
    for members, person in series:
        folder = PurePosixPath(members[0]).parent
        alone = len(members) > 1 and taken.count(folder) == 1
        found.append(Input(printable(str(folder) if alone else members[0]), tuple(members), True, person))
    return sorted(found, key=lambda i: i.source_path)


def _beside(path: str, files: dict[str, tuple[int, int]]) -> list[str]:
    """The sidecar and the b-values of an image."""
    sidecar = sidecar_of(path)
    return [name for name in (sidecar, sidecar.removesuffix(".json") + ".bval") if name in files and name != path]


def _named_voxels(raw: Path, files: dict[str, tuple[int, int]]) -> dict[str, list[str]]:
    """Files that a header names as its voxels: their path → the headers, in lower case."""
    found: dict[str, list[str]] = defaultdict(list)
    for path, (size, _) in files.items():
        if path.lower().endswith(NAMES_VOXELS) and size > 0 and (name := _read_name(raw / path)):
            found[os.path.normpath(PurePosixPath(path).parent / name)].append(path.lower())
    return found


def _read_name(path: Path) -> str:
    try:
        return named_voxels(path)
    except OSError:
        return ""


def is_text(path: str) -> bool:
    """Whether a file is a table, a sidecar or text by its name."""
    name = PurePosixPath(path)
    return name.suffix.lower() in TEXT_SUFFIXES or name.stem.lower() in TEXT_NAMES


def headers_of(path: str, lower: set[str]) -> list[str]:
    """The headers beside a file that holds their voxels, in lower case; [] for any other (`lower`: all paths in lower case)."""
    stem, suffix = os.path.splitext(path.lower().removesuffix(".gz").removesuffix(".bz2"))
    return [header for end in HEADERS_OF.get(suffix, ()) for header in (stem + end, f"{stem}{end}.gz") if header in lower]


def printable(path: str) -> str:
    """A path as valid UTF-8; bytes that are none are written out."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def fingerprint(item: Input, files: dict[str, tuple[int, int]]) -> str:
    """A hash of the names, sizes and times of an input's files and their companions."""
    return xxhash.xxh3_64_hexdigest(repr([(path, files[path]) for path in (*item.files, *item.companions)]).encode())


def image_stem(path: str) -> str:
    """A path without its image suffixes: `a/b_T1w.nii.gz` → `a/b_T1w`."""
    shorter = path[:-3] if path.lower().endswith(".gz") else path
    return os.path.splitext(shorter)[0]


def _walk(folder: Path, above: set[str]) -> Iterator[Path]:
    real = os.path.realpath(folder)
    if real in above:
        return
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        raise UserError(
            f"{folder} cannot be listed ({error.strerror}): mend its permissions, or move it out of --raw"
        ) from error
    for entry in entries:
        if entry.is_dir():
            yield from _walk(Path(entry.path), above | {real})
        else:
            yield Path(entry.path)


def _group_series(
    raw: Path, candidates: list[str], files: dict[str, tuple[int, int]]
) -> tuple[list[tuple[list[str], str]], list[str]]:
    """Split candidates into DICOM series (files of one series UID in one folder, and the person) and other files."""
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    people: dict[tuple[str, str], str] = {}
    others = []
    for path in candidates:
        if files[path][0] <= 0 or not _readable_dicom(raw / path):
            others.append(path)
            continue
        tags = series_tags(raw / path)
        group = (str(PurePosixPath(path).parent), tags.get("SeriesInstanceUID") or path)
        groups[group].append(path)
        people.setdefault(group, tags.get("PatientID", ""))
    return [(sorted(members), people[group]) for group, members in groups.items()], others


def _readable_dicom(path: Path) -> bool:
    try:
        return is_dicom(path)
    except OSError:
        return False
