"""The two passes over the data, as functions of plain values that a Dask worker can run anywhere the folders are mounted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import xxhash

from mri_fm.data.codecs import CODECS
from mri_fm.data.schema import ARCHIVE_DIR, SHARD_DIR
from mri_fm.errors import UserError
from mri_fm.volume.canonical import Canonical, Crop
from mri_fm.volume.prepare import prepare_files
from mri_fm.volume.refusal import Refusal
from preprocessing.archive import write_image
from preprocessing.discover import Input
from preprocessing.files import checksum, read_object, write_text
from preprocessing.shards import Sample, write_shard

SCRATCH_DIR = "private/scratch"
DONE_DIR = "private/done"


@dataclass(frozen=True)
class Decision:
    """What pass 1 found out about an input: a refusal's code and reason, or the hash and the size of its payload.

    `mean` and `std` are of the whole volume, in units of the source.
    """

    source_path: str
    fingerprint: str
    code: str = ""
    reason: str = ""
    content_hash: str = ""
    payload_bytes: int = 0
    mean: float = 0.0
    std: float = 0.0
    info: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Member:
    """One volume of a shard: where it comes from, what it must hash to, what its `.json` says besides geometry."""

    item: Input
    key: str
    content_hash: str
    contrast: str
    dataset: str


@dataclass(frozen=True)
class ShardTask:
    """One shard to be written: `name` without suffix, and its members in order."""

    raw: str
    out: str
    name: str
    members: tuple[Member, ...]
    max_spacing: float
    codec: str
    spec_hash: str

    def identity(self) -> str:
        """A hash over all that decides the shard's bytes."""
        parts = [self.name, self.spec_hash, [(m.item.source_path, m.content_hash, m.contrast, m.dataset) for m in self.members]]
        return xxhash.xxh3_128_hexdigest(json.dumps(parts).encode())


def load(raw: Path, item: Input, max_spacing: float) -> tuple[Canonical, Crop, dict[str, str]]:
    """Read an input into its canonical form and its crop; also what a DICOM header says of the contrast.

    Raises:
        Refusal: whatever is wrong with it.
    """
    prepared = prepare_files([raw / file for file in item.files], series=item.series, max_spacing=max_spacing)
    return prepared.canonical, prepared.crop, prepared.info


def examine(raw: str, max_spacing: float, marked: tuple[Input, str]) -> Decision:
    """Pass 1: decide on one input, given with its fingerprint. Never raises for what the input holds."""
    item, fingerprint = marked
    try:
        canonical, cropped, info = load(Path(raw), item, max_spacing)
    except Refusal as refusal:
        return Decision(item.source_path, fingerprint, refusal.code, refusal.reason)
    mean, std = canonical.source_moments()
    content_hash = canonical.content_hash()
    return Decision(item.source_path, fingerprint, "", "", content_hash, cropped.voxels.nbytes, mean, std, info)


def crashed(marked: tuple[Input, str]) -> Decision:
    """The decision on an input that took its reader's process down with it."""
    return Decision(marked[0].source_path, marked[1], "reader_crashed", "the worker process died while reading it")


def write_task(task: ShardTask) -> dict[str, Any]:
    """Pass 2: write one shard and the images of its volumes, unless that was done before.

    Returns:
        {"identity", "rows": manifest facts by key, "checksums": by path relative to the corpus}.

    Raises:
        UserError: an input is no longer what pass 1 saw.
    """
    out = Path(task.out)
    done = out / DONE_DIR / f"{task.name}.json"
    earlier = _earlier_record(done, task, out)
    if earlier is not None:
        return earlier
    rows: dict[str, dict[str, Any]] = {}
    tar = out / SHARD_DIR / f"{task.name}.tar"
    payloads = write_shard(tar, _samples(task, rows), CODECS[task.codec])
    for payload in payloads:
        rows[payload.key] |= {"shard": tar.name, **{k: v for k, v in asdict(payload).items() if k != "key"}}
    record = _record(task, out, tar, rows)
    write_text(done, json.dumps(record), mode=0o600)
    return record


def is_intact(out: Path, record: dict[str, Any]) -> bool:
    """Whether all files and images that a record or corpus.json names are there, byte for byte."""
    return all(checksum(out / path) == value for path, value in record["checksums"].items())


def _earlier_record(done: Path, task: ShardTask, out: Path) -> dict[str, Any] | None:
    record = read_object(done)
    return record if record.get("identity") == task.identity() and is_intact(out, record) else None


def _samples(task: ShardTask, rows: dict[str, dict[str, Any]]) -> Iterator[Sample]:
    """Read the members one after the other, write each one's image, note its manifest facts, and hand out its sample."""
    for member in task.members:
        canonical, cropped = _reload(task, member)
        out = Path(task.out)
        write_image(out / ARCHIVE_DIR / member.key, out / SCRATCH_DIR / member.key, canonical)
        rows[member.key] = _facts(canonical, cropped)
        info = {
            "spacing": list(canonical.spacing),
            "affine": cropped.affine.tolist(),
            "scale": canonical.scale,
            "offset": canonical.offset,
            "contrast": member.contrast,
            "dataset": member.dataset,
        }
        yield Sample(member.key, cropped.voxels, info)


def _reload(task: ShardTask, member: Member) -> tuple[Canonical, Crop]:
    try:
        canonical, cropped, _ = load(Path(task.raw), member.item, task.max_spacing)
        same = canonical.content_hash() == member.content_hash
    except Refusal:
        same = False
    if not same:
        raise UserError(f"{Path(task.raw, member.item.source_path)} changed while the corpus was built: start the build again")
    return canonical, cropped


def _facts(canonical: Canonical, cropped: Crop) -> dict[str, Any]:
    return {
        "shape": list(cropped.voxels.shape),
        "spacing": list(canonical.spacing),
        "orientation": canonical.orientation,
        "dtype": canonical.dtype,
        "p01": cropped.p01,
        "p99": cropped.p99,
        "crop_p01": cropped.crop_p01,
        "crop_p99": cropped.crop_p99,
        "foreground_fraction": cropped.foreground_fraction,
    }


def _record(task: ShardTask, out: Path, tar: Path, rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    paths = [tar, tar.with_suffix(".idx"), *(out / ARCHIVE_DIR / key for key in rows)]
    checksums = {path.relative_to(out).as_posix(): checksum(path) for path in paths}
    return {"identity": task.identity(), "rows": rows, "checksums": checksums}
