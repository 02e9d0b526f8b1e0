"""One volume from its shard with one range read, checked against the manifest.

Axes: z, y, x voxels.
"""

from __future__ import annotations

from enum import IntEnum
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import xxhash

from mri_fm.config import DataConfig
from mri_fm.data.cache import GB, PayloadCache
from mri_fm.data.codecs import CODECS
from mri_fm.data.corpus import Sample
from mri_fm.data.retry import STORED, retried
from mri_fm.data.storage import TRANSIENT, LocalStorage, Storage


class Fault(IntEnum):
    """Why a sample could not be read; a number, since it travels through DALI beside the volumes."""

    NONE = 0
    UNREADABLE = 1
    SHORT_READ = 2
    CHECKSUM = 3
    SHAPE = 4
    UNREACHABLE = 5
    PROGRAM = 6

    def describe(self) -> str:
        """Words for a log line or an error."""
        return _REASONS[self]


_REASONS = {
    Fault.NONE: "no fault",
    Fault.UNREADABLE: "what it is stored in cannot be opened or read",
    Fault.SHORT_READ: "the shard ends before the payload does",
    Fault.CHECKSUM: "the payload's checksum differs from the manifest's",
    Fault.SHAPE: "the payload does not decode to the shape in the manifest",
    Fault.UNREACHABLE: "the storage did not answer in time, however often it was asked",
    Fault.PROGRAM: "the loader's own code failed on it, see the traceback",
}


class BadSampleError(Exception):
    """A sample that cannot be used, and why."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.describe())
        self.fault = fault


class Reader(Protocol):
    """Reads the voxels of a sample, whatever they are stored in.

    Attributes:
        cached: whether the last sample came from the cache of this node.
    """

    cached: bool

    def read(self, sample: Sample) -> np.ndarray:
        """The voxels of a sample, int16 (z, y, x); BadSampleError if they cannot be had."""

    def close(self) -> None:
        """Give back what is open."""


class ShardReader:
    """Reads payloads by (shard, offset, size) from wherever the shards lie.

    Attributes:
        cached: whether the last payload came from the cache.
    """

    def __init__(self, storage: Storage | None = None, cache: PayloadCache | None = None) -> None:
        """`storage` holds the shards; by default they are local files. `cache` keeps payloads on this node."""
        self._storage, self._cache = storage or LocalStorage(), cache
        self.cached = False

    def read(self, sample: Sample) -> np.ndarray:
        """The voxels of a sample, int16 (z, y, x), read-only.

        Raises:
            BadSampleError: short read, checksum or shape mismatch, or a storage that fails.
        """
        return decode(self.read_payload(sample), sample)

    def read_payload(self, sample: Sample) -> bytes:
        """The bytes of a sample as they are stored, checked; raises as `read`."""
        try:
            return retried(partial(self._payload, sample), (BadSampleError,), STORED)
        except TRANSIENT as error:
            raise BadSampleError(Fault.UNREACHABLE) from error

    def close(self) -> None:
        """Close every open shard."""
        self._storage.close()

    def _payload(self, sample: Sample) -> bytes:
        name = f"{sample.key}/{sample.size}/{sample.checksum}"
        kept = self._cache.get(name, lambda payload: not fault_of(payload, sample)) if self._cache else None
        self.cached = kept is not None
        if kept is not None:
            return kept
        payload = self._read(sample)
        if fault := fault_of(payload, sample):
            raise BadSampleError(fault)
        if self._cache:
            self._cache.put(name, payload)
        return payload

    def _read(self, sample: Sample) -> bytes:
        try:
            return self._storage.read(sample.shard, sample.offset, sample.size)
        except TRANSIENT:  # the storage has asked again by itself
            raise
        except OSError as error:
            self._storage.close()  # what is open may be stale: the next try opens it again
            raise BadSampleError(Fault.UNREADABLE) from error


def open_reader(storage: Storage, config: DataConfig) -> Reader:
    """The reader of a corpus in `storage` that the configuration asks for.

    Raises:
        UserError: `data.cache_dir` cannot be written.
    """
    if config.reader == "archive":
        from mri_fm.data.zarr_access import ArchiveReader  # zarr takes long to import, and trains nobody

        return ArchiveReader(storage)
    cache = PayloadCache(Path(config.cache_dir), int(config.cache_gb * GB)) if config.cache_dir else None
    return ShardReader(storage, cache)


def fault_of(payload: bytes, sample: Sample) -> Fault:
    """What is wrong with the stored bytes of a sample; `Fault.NONE`, which is false, if nothing is."""
    if len(payload) != sample.size:
        return Fault.SHORT_READ
    return Fault.NONE if xxhash.xxh3_64_hexdigest(payload) == sample.checksum else Fault.CHECKSUM


def decode(payload: bytes, sample: Sample) -> np.ndarray:
    """The voxels in the stored bytes of a sample, int16 (z, y, x), perhaps read-only.

    Raises:
        BadSampleError: they do not have the shape in the manifest.
    """
    try:
        return CODECS[sample.codec].decode(payload, sample.shape)
    except (ValueError, RuntimeError) as error:
        raise BadSampleError(Fault.SHAPE) from error
