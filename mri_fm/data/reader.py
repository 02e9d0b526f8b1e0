"""One volume from its shard with one range read, checked against the manifest.

Axes: z, y, x voxels.
"""

from __future__ import annotations

from enum import IntEnum
from functools import partial

import numpy as np
import xxhash

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

    def describe(self) -> str:
        """Words for a log line or an error."""
        return _REASONS[self]


_REASONS = {
    Fault.NONE: "no fault",
    Fault.UNREADABLE: "the shard cannot be opened or read",
    Fault.SHORT_READ: "the shard ends before the payload does",
    Fault.CHECKSUM: "the payload's checksum differs from the manifest's",
    Fault.SHAPE: "the payload does not decode to the shape in the manifest",
    Fault.UNREACHABLE: "the storage did not answer in time, however often it was asked",
}


class BadSampleError(Exception):
    """A sample that cannot be used, and why."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.describe())
        self.fault = fault


class ShardReader:
    """Reads payloads by (shard, offset, size) from wherever the shards lie."""

    def __init__(self, storage: Storage | None = None) -> None:
        """`storage` holds the shards; by default they are local files."""
        self._storage = storage or LocalStorage()

    def read(self, sample: Sample) -> np.ndarray:
        """The voxels of a sample, int16 (z, y, x), read-only.

        Raises:
            BadSampleError: short read, checksum or shape mismatch, or a storage that fails.
        """
        try:
            payload = retried(partial(self._payload, sample), (BadSampleError,), STORED)
        except TRANSIENT as error:
            raise BadSampleError(Fault.UNREACHABLE) from error
        except OSError as error:
            raise BadSampleError(Fault.UNREADABLE) from error
        try:
            return CODECS[sample.codec].decode(payload, sample.shape)
        except (ValueError, RuntimeError) as error:
            raise BadSampleError(Fault.SHAPE) from error

    def close(self) -> None:
        """Close every open shard."""
        self._storage.close()

    def _payload(self, sample: Sample) -> bytes:
        """The bytes of a sample as they are stored, checked."""
        payload = self._storage.read(sample.shard, sample.offset, sample.size)
        if len(payload) != sample.size:
            raise BadSampleError(Fault.SHORT_READ)
        if xxhash.xxh3_64_hexdigest(payload) != sample.checksum:
            raise BadSampleError(Fault.CHECKSUM)
        return payload
