"""A corpus as its readers see it: checked at the start, then a list of samples with their byte ranges."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import xxhash

from mri_fm.data import schema
from mri_fm.errors import UserError

_REBUILD = "build it again with python -m preprocessing.build_shards"
_CHUNK = 1 << 22


@dataclass(frozen=True)
class Sample:
    """One volume of the corpus.

    Attributes:
        key: name of the sample.
        dataset, subject, session, contrast, split: where it comes from and what it is for.
        shape: voxels along z, y, x.
        spacing: mm along z, y, x.
        p01, p99: percentiles over the foreground, stored units.
        crop_p01, crop_p99: percentiles over the whole crop, stored units.
        shard: the tar file.
        offset, size: byte range of the int16 payload in it.
        checksum: XXH3-64 of the payload, 16 hex digits.
        row: index in the manifest.
    """

    key: str
    dataset: str
    subject: str
    session: str
    contrast: str
    split: str
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    p01: float
    p99: float
    crop_p01: float
    crop_p99: float
    shard: Path
    offset: int
    size: int
    checksum: str
    row: int


class Corpus:
    """A folder written by `preprocessing.build_shards`; make one with `Corpus.open`."""

    def __init__(self, root: Path, info: dict[str, Any], table: Any) -> None:
        """`info` is corpus.json, `table` the manifest as a `pyarrow.Table`."""
        self.root, self.info, self.table = root, info, table
        self.samples = _samples(root, table)

    @classmethod
    def open(cls, root: Path, verify: str = "full") -> Corpus:
        """Open a corpus and check it.

        Args:
            root: the corpus folder.
            verify: "full" reads the manifest and every shard and compares checksums; "size" only compares each shard's
                size with the byte ranges in the manifest.

        Raises:
            UserError: no corpus there, another format version, or a file that is missing, truncated or changed.
        """
        info = _read_info(root)
        if verify == "full":
            _verify_checksum(root, schema.MANIFEST_FILE, info["checksums"])
        corpus = cls(root, info, _read_manifest(root))
        for shard, end in corpus._shard_ends().items():
            _verify_size(shard, end)
            if verify == "full":
                _verify_checksum(root, f"{schema.SHARD_DIR}/{shard.name}", info["checksums"])
        return corpus

    def select(self, split: str | None = None, contrasts: Sequence[str] = ()) -> list[Sample]:
        """The samples of a split (None: all) and of some contrasts (empty: all), in manifest order.

        Raises:
            UserError: a contrast that the corpus lacks, or no sample for training.
        """
        present = {sample.contrast for sample in self.samples}
        absent = [contrast for contrast in contrasts if contrast not in present]
        if absent:
            raise UserError(
                f"data.contrasts names {', '.join(absent)}, but {self.root} holds {_listed(present)}: choose among these"
            )
        chosen = [s for s in self.samples if split in (None, s.split) and (not contrasts or s.contrast in contrasts)]
        if not chosen and split == "train":
            groups = {f"{s.split} {s.contrast}" for s in self.samples}
            wanted = f" of {', '.join(contrasts)}" if contrasts else ""
            raise UserError(
                f"{self.root} has no training volume{wanted}; it holds {_listed(groups)}: choose another corpus or contrast"
            )
        return chosen

    def _shard_ends(self) -> dict[Path, int]:
        """The byte after the last payload of each shard."""
        ends: dict[Path, int] = {}
        for sample in self.samples:
            ends[sample.shard] = max(ends.get(sample.shard, 0), sample.offset + sample.size)
        return ends


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "nothing"


def _read_info(root: Path) -> dict[str, Any]:
    path = root / schema.CORPUS_FILE
    if not path.is_file():
        raise UserError(f"no corpus at {root} ({schema.CORPUS_FILE} is missing): give data.corpus=FOLDER, or {_REBUILD}")
    try:
        info = json.loads(path.read_text())
        version = info["format_version"]
        dict(info["checksums"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({type(error).__name__}: {error}): {_REBUILD}") from error
    if version != schema.FORMAT_VERSION:
        raise UserError(f"{path} has format version {version}, this program reads {schema.FORMAT_VERSION}: {_REBUILD}")
    return dict(info)


def _read_manifest(root: Path) -> Any:
    path = root / schema.MANIFEST_FILE
    if not path.is_file():
        raise UserError(f"{path} is missing: {_REBUILD}")
    try:
        table = pq.read_table(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({str(error).splitlines()[0]}): {_REBUILD}") from error
    absent = [name for name in schema.MANIFEST.names if name not in table.column_names]
    if absent:
        raise UserError(f"{path} lacks the columns {', '.join(absent)}: {_REBUILD}")
    return table


def _samples(root: Path, table: Any) -> list[Sample]:
    names = [name for name in Sample.__dataclass_fields__ if name != "row"]
    rows = table.select(names).to_pylist()
    for number, row in enumerate(rows):
        row.update(
            row=number,
            shape=tuple(row["shape"]),
            spacing=tuple(row["spacing"]),
            shard=root / schema.SHARD_DIR / row["shard"],
        )
    return [Sample(**row) for row in rows]


def _verify_size(shard: Path, end: int) -> None:
    if not shard.is_file():
        raise UserError(f"shard {shard} is missing: restore it, or {_REBUILD}")
    size = shard.stat().st_size
    if size < end:
        raise UserError(f"shard {shard} is truncated ({size} bytes, the manifest needs {end}): restore it, or {_REBUILD}")


def _verify_checksum(root: Path, name: str, checksums: dict[str, str]) -> None:
    path = root / name
    if name not in checksums:
        raise UserError(f"{root / schema.CORPUS_FILE} has no checksum for {name}: {_REBUILD}")
    if not path.is_file():
        raise UserError(f"{path} is missing: restore it, or {_REBUILD}")
    digest = xxhash.xxh3_64()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    if digest.hexdigest() != checksums[name]:
        raise UserError(f"{path} was changed since the corpus was built (checksum differs): restore it, or {_REBUILD}")
