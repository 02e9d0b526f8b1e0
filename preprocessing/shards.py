"""WebDataset shards: a deterministic USTAR tar per shard and DALI's index (format v1.2) beside it."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from mri_fm.data.codecs import RAW, Codec

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
    """Where a payload lies in its shard: `offset` and `size` in bytes, `checksum` its XXH3-64 in hex."""

    key: str
    offset: int
    size: int
    checksum: str


def write_shard(path: Path, samples: Iterable[Sample], codec: Codec = RAW) -> list[Payload]:
    """Write `path` (.tar) and its `.idx`; the tar has its name only once both are complete.

    The bytes depend on the samples and the codec alone: time stamps are 0 and the owner is fixed.
    """
    import webdataset  # it loads torch, which takes a second and 250 MB that reading has no use for

    partial = path.with_suffix(".tar.partial")
    checksums = {}
    with partial.open("wb", buffering=1 << 20) as stream:
        with webdataset.TarWriter(stream, user=OWNER, group=OWNER, mtime=0, encoder=False) as writer:
            for sample in samples:
                members = encode(sample, codec)
                checksums[sample.key] = xxhash.xxh3_64_hexdigest(members[codec.extension])
                writer.write({"__key__": sample.key, **members})
        stream.flush()
        os.fsync(stream.fileno())
    payloads = write_index(partial, path.with_suffix(".idx"), checksums, codec)
    partial.replace(path)
    return payloads


def encode(sample: Sample, codec: Codec = RAW) -> dict[str, bytes]:
    """The members of a sample by extension: the payload under its codec's, `shape` 3 × int32, `json`."""
    return {
        codec.extension: codec.encode(sample.voxels),
        "shape": np.asarray(sample.voxels.shape, "<i4").tobytes(),
        "json": json.dumps(sample.info, sort_keys=True, allow_nan=False).encode(),
    }


def write_index(tar: Path, index: Path, checksums: dict[str, str], codec: Codec = RAW) -> list[Payload]:
    """Write the index of a tar from the headers that lie in it, and tell where each payload is."""
    groups: dict[str, list[str]] = {}
    payloads = []
    with tarfile.open(tar) as archive:
        for member in archive:
            key, _, extension = member.name.partition(".")
            groups.setdefault(key, []).append(f"{extension} {member.offset_data} {member.size} {member.name}")
            if extension == codec.extension:
                payloads.append(Payload(key, member.offset_data, member.size, checksums[key]))
    index.write_text("\n".join([f"{INDEX_VERSION} {len(groups)}", *map(" ".join, groups.values()), ""]))
    return payloads
