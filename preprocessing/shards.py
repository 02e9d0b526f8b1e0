"""WebDataset shards: a deterministic USTAR tar per shard and DALI's index (format v1.2) beside it."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import webdataset
import xxhash
from numpy.typing import NDArray

from mri_fm.rng import Stream, generator

INDEX_VERSION = "v1.2"
OWNER = "mri-fm"


@dataclass(frozen=True)
class Sample:
    """What a shard holds of one volume.

    Attributes:
        key: [a-z0-9_-]+.
        voxels: int16 (Z, Y, X), cropped, 0 in the background and nowhere else.
        info: the content of the `.json` member.
    """

    key: str
    voxels: NDArray[np.int16]
    info: dict[str, Any]


@dataclass(frozen=True)
class Payload:
    """Where a `.raw` member lies in its shard: `offset` and `size` in bytes, `checksum` its XXH3-64 in hex."""

    key: str
    offset: int
    size: int
    checksum: str


def plan_shards(sizes: dict[str, int], shard_bytes: int, stream_position: int) -> list[list[str]]:
    """Shuffle keys and cut them into shards.

    Args:
        sizes: payload bytes of each key.
        shard_bytes: a shard is closed before it would exceed this (one sample may, alone).
        stream_position: which shuffle, one per split.

    Returns:
        The keys of each shard in the order of writing; it depends on the set of keys, not on the order of `sizes`.
    """
    keys = sorted(sizes)
    order = generator(0, Stream.SHUFFLE, stream_position).permutation(len(keys))
    shards: list[list[str]] = []
    filled = shard_bytes
    for key in (keys[i] for i in order):
        if filled + sizes[key] > shard_bytes or not shards:
            shards.append([])
            filled = 0
        shards[-1].append(key)
        filled += sizes[key]
    return shards


def write_shard(path: Path, samples: Iterable[Sample]) -> list[Payload]:
    """Write `path` (.tar) and its `.idx`, each under its final name only once it is complete.

    The bytes depend on the samples alone: time stamps are 0 and the owner is fixed.
    """
    partial = path.with_suffix(".tar.partial")
    checksums = {}
    with partial.open("wb") as stream:
        with webdataset.TarWriter(stream, user=OWNER, group=OWNER, mtime=0, encoder=False) as writer:
            for sample in samples:
                members = encode(sample)
                checksums[sample.key] = xxhash.xxh3_64_hexdigest(members["raw"])
                writer.write({"__key__": sample.key, **members})
        stream.flush()
        os.fsync(stream.fileno())
    payloads = write_index(partial, path.with_suffix(".idx"), checksums)
    partial.replace(path)
    return payloads


def encode(sample: Sample) -> dict[str, bytes]:
    """The members of a sample by extension: `raw` little-endian int16, `shape` 3 × int32, `json`."""
    return {
        "raw": sample.voxels.astype("<i2", copy=False).tobytes(),
        "shape": np.asarray(sample.voxels.shape, "<i4").tobytes(),
        "json": json.dumps(sample.info, sort_keys=True, allow_nan=False).encode(),
    }


def write_index(tar: Path, index: Path, checksums: dict[str, str]) -> list[Payload]:
    """Write the index of a tar from the headers that lie in it, and tell where each `.raw` member is."""
    groups: dict[str, list[str]] = {}
    payloads = []
    with tarfile.open(tar) as archive:
        for member in archive:
            key, _, extension = member.name.partition(".")
            groups.setdefault(key, []).append(f"{extension} {member.offset_data} {member.size} {member.name}")
            if extension == "raw":
                payloads.append(Payload(key, member.offset_data, member.size, checksums[key]))
    write_text(index, "\n".join([f"{INDEX_VERSION} {len(groups)}", *map(" ".join, groups.values()), ""]))
    return payloads


def write_text(path: Path, text: str, *, mode: int = 0o644) -> None:
    """Replace a text file atomically; it is never readable under other permissions than `mode`."""
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(path)


def file_checksum(paths: Sequence[Path]) -> str:
    """XXH3-64 (hex) over the bytes of files, one after the other."""
    digest = xxhash.xxh3_64()
    for path in paths:
        with path.open("rb") as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()
