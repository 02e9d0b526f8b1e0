"""A corpus as its readers see it: checked at the start, then a list of samples with their byte ranges."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mri_fm.data import schema
from mri_fm.data.codecs import check_codecs
from mri_fm.data.storage import TRANSIENT, Storage, open_storage
from mri_fm.errors import ResumableError, UserError

_REBUILD = "build it again with python -m preprocessing.build_shards"
Seen = Callable[[int], None] | None


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
        shard: path of the tar file in the corpus' storage.
        offset, size: byte range of the payload in it, as stored.
        checksum: XXH3-64 of the payload as stored, 16 hex digits.
        row: index in the manifest.
        codec: what the payload is stored with, a name of `mri_fm.data.codecs.CODECS`.
        content_hash: of the whole volume before the crop, `mri_fm.volume.canonical.Canonical.content_hash`.
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
    shard: PurePath
    offset: int
    size: int
    checksum: str
    row: int
    codec: str = "raw"
    content_hash: str = ""


class Corpus:
    """What `preprocessing.build_shards` wrote, in a folder or copied to S3; make one with `Corpus.open`."""

    def __init__(self, storage: Storage, info: dict[str, Any], table: Any) -> None:
        """`info` is corpus.json, `table` the manifest as a `pyarrow.Table`."""
        self.storage, self.info, self.table = storage, info, table
        self.samples = _samples(storage.root, table)

    @property
    def root(self) -> str:
        """The address it was opened at, for messages."""
        return self.storage.address

    @classmethod
    def open(cls, address: str | Path, verify: str = "full", *, shards: bool = True) -> Corpus:
        """Open a corpus and check it.

        Args:
            address: its folder, or s3://bucket/prefix.
            verify: "full" reads the manifest and every shard and compares checksums; "manifest" leaves out the shards; "size"
                only compares each shard's size with the byte ranges in the manifest, as the others do too.
            shards: False for a use of the archive alone: shards are not looked at and may be absent.

        Raises:
            UserError: no corpus there, no permission, another format version, a codec that is not installed, or a file that
                is missing, truncated or changed.
            ResumableError: the storage does not answer.
        """
        with closing(open_storage(address)) as storage:
            return cls._open(storage, verify, shards)

    @classmethod
    def _open(cls, storage: Storage, verify: str, shards: bool) -> Corpus:
        info = _read_info(storage)
        if verify in ("full", "manifest"):
            _verify_checksum(storage, schema.MANIFEST_FILE, info["checksums"])
        table = _read_manifest(storage)
        _check_names(storage, table)
        corpus = cls(storage, info, table)
        check_codecs((sample.codec for sample in corpus.samples), corpus.root)
        for name, end in corpus.shard_ends().items() if shards else ():
            _verify_size(storage, f"{schema.SHARD_DIR}/{name}", end)
            if verify == "full":
                corpus.verify_shard(name)
        return corpus

    def verify_shard(self, name: str, seen: Seen = None) -> None:
        """Read a shard and compare its checksum; `seen` is told the bytes of each piece.

        Raises:
            UserError: it is missing or was changed.
            ResumableError: the storage does not answer.
        """
        _verify_checksum(self.storage, f"{schema.SHARD_DIR}/{name}", self.info["checksums"], seen)

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

    def shard_ends(self) -> dict[str, int]:
        """The byte after the last payload of each shard."""
        ends: dict[str, int] = {}
        for sample in self.samples:
            ends[sample.shard.name] = max(ends.get(sample.shard.name, 0), sample.offset + sample.size)
        return ends


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "nothing"


@contextmanager
def _reading(storage: Storage, name: str, missing: str = f"restore it, or {_REBUILD}") -> Iterator[None]:
    """One line for a file that is missing or cannot be read, and for storage that does not answer."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{storage.address}/{name} is missing{_detail(error)}: {missing}") from error
    except TRANSIENT as error:  # the storage has asked again by itself
        away = f"the storage is away: {storage.address}/{name} cannot be read{_detail(error)}"
        raise ResumableError(f"{away}; the same command goes on once it is back") from error
    except OSError as error:
        raise UserError(f"{storage.address}/{name} cannot be read{_detail(error)}: mend that and start again") from error


def _detail(error: OSError) -> str:
    """What S3 or the system adds to the plain fact, in brackets."""
    words = str(error) if error.errno is None else error.strerror
    return "" if error.errno is not None and isinstance(error, FileNotFoundError) else f" ({words})"


def _read_info(storage: Storage) -> dict[str, Any]:
    path = f"{storage.address}/{schema.CORPUS_FILE}"
    with _reading(storage, schema.CORPUS_FILE, missing=f"give data.corpus=FOLDER or s3://bucket/prefix, or {_REBUILD}"):
        content = storage.read_all(storage.root / schema.CORPUS_FILE)
    try:
        info = json.loads(content)
        version = info["format_version"]
        dict(info["checksums"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({type(error).__name__}: {error}): {_REBUILD}") from error
    if version != schema.FORMAT_VERSION:
        raise UserError(f"{path} has format version {version}, this program reads {schema.FORMAT_VERSION}: {_REBUILD}")
    return dict(info)


def _read_manifest(storage: Storage) -> Any:
    path = f"{storage.address}/{schema.MANIFEST_FILE}"
    with _reading(storage, schema.MANIFEST_FILE):
        content = storage.read_all(storage.root / schema.MANIFEST_FILE)
    try:
        table = pq.read_table(pa.BufferReader(content))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({str(error).splitlines()[0]}): {_REBUILD}") from error
    absent = [name for name in schema.MANIFEST.names if name not in (*table.column_names, *schema.LATER)]
    if absent:
        raise UserError(f"{path} lacks the columns {', '.join(absent)}: {_REBUILD}")
    return table


def _check_names(storage: Storage, table: Any) -> None:
    """Keys and shards become paths; a manifest from elsewhere must not lead out of the corpus by them."""
    for column, allowed in {"key": schema.KEY_PATTERN, "shard": schema.SHARD_PATTERN}.items():
        for name in table.column(column).unique().to_pylist():
            if not re.fullmatch(allowed, str(name)):
                where = f"{storage.address}/{schema.MANIFEST_FILE}"
                raise UserError(f"{where} has the {column} {name!r}, a name that no build writes: {_REBUILD}")


def _samples(root: PurePath, table: Any) -> list[Sample]:
    names = [name for name in Sample.__dataclass_fields__ if name in table.column_names]
    rows = table.select(names).to_pylist()
    for number, row in enumerate(rows):
        row.update(
            row=number,
            codec=row.get("codec") or "raw",
            shape=tuple(row["shape"]),
            spacing=tuple(row["spacing"]),
            shard=root / schema.SHARD_DIR / row["shard"],
        )
    return [Sample(**row) for row in rows]


def _verify_size(storage: Storage, name: str, end: int) -> None:
    with _reading(storage, name):
        size = storage.size(storage.root / name)
    if size < end:
        raise UserError(
            f"{storage.address}/{name} is truncated ({size} bytes, the manifest needs {end}): restore it, or {_REBUILD}"
        )


def _verify_checksum(storage: Storage, name: str, checksums: dict[str, str], seen: Seen = None) -> None:
    if name not in checksums:
        raise UserError(f"{storage.address}/{schema.CORPUS_FILE} has no checksum for {name}: {_REBUILD}")
    with _reading(storage, name):
        digest = storage.checksum(storage.root / name, seen)
    if digest != checksums[name]:
        raise UserError(
            f"{storage.address}/{name} was changed since the corpus was built (checksum differs): restore it, or {_REBUILD}"
        )
