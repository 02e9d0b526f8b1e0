"""The two passes over the data, as functions of plain values that a Dask worker can run anywhere the folders are mounted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, astuple, dataclass, field, replace
from pathlib import Path
from typing import Any

import xxhash

from mri_fm.data.codecs import CODECS
from mri_fm.data.schema import ARCHIVE_DIR, SHARD_DIR
from mri_fm.errors import UserError
from mri_fm.volume.canonical import Canonical, Crop
from mri_fm.volume.discover import Input
from mri_fm.volume.orient import to_ras
from mri_fm.volume.prepare import AS_IT_IS, prepare_files
from mri_fm.volume.processing import Processing
from mri_fm.volume.read import read_series, read_volume, refuse_failures
from mri_fm.volume.refusal import Refusal
from preprocessing.archive import write_image
from preprocessing.files import checksum
from preprocessing.gallery import middle_slices, png_of
from preprocessing.place import Place, open_place
from preprocessing.quality import measure
from preprocessing.shards import Sample, write_shard
from preprocessing.source import open_source

DONE_DIR = "private/done"


@dataclass(frozen=True)
class Decision:
    """What pass 1 found out about an input: a refusal's code and reason, or the hash and the size of its payload.

    `mean` and `std` are of the whole volume, in units of the source; `level` is the crop's, from which pass 2 goes on.
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
    crop_hash: str = ""
    level: int = 0


@dataclass(frozen=True)
class Member:
    """One volume of a shard: where it comes from, what it must hash to, what its `.json` says besides geometry."""

    item: Input
    key: str
    content_hash: str
    contrast: str
    dataset: str
    crop_hash: str = ""  # of the payload's voxels, which a mask decides beside the content
    level: int = 0  # of the foreground, as pass 1 found it


@dataclass(frozen=True)
class ShardTask:
    """One shard to be written: `name` without suffix, and its members in order."""

    raw: str
    out: str
    name: str
    members: tuple[Member, ...]
    max_spacing: float
    reference_volume: bool
    codec: str
    spec_hash: str
    processing: Processing = AS_IT_IS

    def identity(self) -> str:
        """A hash over all that decides the shard's bytes."""
        parts = [
            self.name,
            self.spec_hash,
            [astuple(replace(m, item=Input(m.item.source_path, ()), level=0)) for m in self.members],
        ]
        return xxhash.xxh3_128_hexdigest(json.dumps(parts).encode())


def load(
    raw: str, item: Input, max_spacing: float, reference_volume: bool, processing: Processing, level: int = 0
) -> tuple[Canonical, Crop, dict[str, str]]:
    """Read an input into its canonical form and its crop; also what a DICOM header says of the contrast.

    `level`: of its crop, where pass 1 has found it.

    Raises:
        Refusal: whatever is wrong with it.
        OSError: it may not be read, or its storage fails.
    """
    with open_source(raw).fetched(item) as folder:
        files = [folder / file for file in item.files]
        prepared = prepare_files(
            files, series=item.series, max_spacing=max_spacing, reference_volume=reference_volume, processing=processing,
            level=level,
        )  # fmt: skip
        return prepared.canonical, prepared.crop, prepared.info


def examine(
    raw: str, max_spacing: float, reference_volume: bool, marked: tuple[Input, str], processing: Processing = AS_IT_IS
) -> Decision:
    """Pass 1: decide on one input, given with its fingerprint. Never raises for what the input holds."""
    item, fingerprint = marked
    try:
        canonical, cropped, info = load(raw, item, max_spacing, reference_volume, processing)
    except Refusal as refusal:
        return Decision(item.source_path, fingerprint, refusal.code, refusal.reason)
    mean, std = canonical.source_moments()
    content_hash = canonical.content_hash()
    crop_hash = xxhash.xxh3_64_hexdigest(cropped.voxels.data)
    return Decision(
        item.source_path, fingerprint, "", "", content_hash, cropped.voxels.nbytes, mean, std, info, crop_hash, cropped.level
    )


def picture(raw: str, item: Input) -> str:
    """Middle slices of a refused input as PNG in base64; "" where no reader brings it that far."""
    try:
        with open_source(raw).fetched(item) as folder, refuse_failures():
            files = [folder / file for file in item.files]
            volume = read_series(files) if item.series else read_volume(files[0], reference_volume=True)
            ras = to_ras(volume)
            return png_of(middle_slices(ras.array, ras.spacing))
    except Refusal:
        return ""


def write_task(task: ShardTask) -> dict[str, Any]:
    """Pass 2: write one shard and the images of its volumes, unless that was done before.

    Returns:
        {"identity", "rows": manifest facts by key, "checksums": by path relative to the corpus}.

    Raises:
        UserError: an input is no longer what pass 1 saw.
        OSError: there is no room, or no right, to write.
    """
    place = open_place(task.out)
    done = f"{DONE_DIR}/{task.name}.json"
    earlier = place.read_object(done)
    if earlier.get("identity") == task.identity() and is_intact(place, earlier):
        return earlier
    record: dict[str, Any] = {"identity": task.identity(), "rows": {}, "checksums": {}}
    with place.scratch() as folder:
        tar = folder / f"{task.name}.tar"
        payloads = write_shard(tar, _samples(task, place, folder, record), CODECS[task.codec])
        for made in (tar.with_suffix(".idx"), tar):
            _publish(place, made, f"{SHARD_DIR}/{made.name}", record)
    for payload in payloads:
        record["rows"][payload.key] |= {"shard": tar.name, **{k: v for k, v in asdict(payload).items() if k != "key"}}
    place.write(done, json.dumps(record).encode())
    return record


def is_intact(place: Place, record: dict[str, Any]) -> bool:
    """Whether all files and images that a record or corpus.json names are there."""
    return all(place.is_intact(path, value) for path, value in record["checksums"].items())


def _publish(place: Place, made: Path, name: str, record: dict[str, Any]) -> None:
    record["checksums"][name] = checksum(made)
    place.publish(made, name)


def _samples(task: ShardTask, place: Place, folder: Path, record: dict[str, Any]) -> Iterator[Sample]:
    """Read the members one after the other, write each one's image, note its manifest facts, and hand out its sample."""
    for member in task.members:
        canonical, cropped = _reload(task, member)
        write_image(folder / member.key, canonical)
        _publish(place, folder / member.key, f"{ARCHIVE_DIR}/{member.key}", record)
        record["rows"][member.key] = _facts(canonical, cropped)
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
        canonical, cropped, _ = load(
            task.raw, member.item, task.max_spacing, task.reference_volume, task.processing, member.level
        )
        same = canonical.content_hash() == member.content_hash
    except Refusal:
        same = False
    if not same:
        raise UserError(f"{task.raw}/{member.item.source_path} changed while the corpus was built: start the build again")
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
        "repaired": canonical.repaired,
        **measure(canonical, cropped),
    }
