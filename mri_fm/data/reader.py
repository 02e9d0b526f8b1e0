"""One volume from its shard with one `pread`, checked against the manifest.

Axes: z, y, x voxels.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from enum import IntEnum
from pathlib import Path

import numpy as np
import xxhash

from mri_fm.data.corpus import Sample

_OPEN_SHARDS = 64
_PAYLOAD = np.dtype("<i2")


class Fault(IntEnum):
    """Why a sample could not be read; a number, since it travels through DALI beside the volumes."""

    NONE = 0
    UNREADABLE = 1
    SHORT_READ = 2
    CHECKSUM = 3
    SHAPE = 4

    def describe(self) -> str:
        """Words for a log line or an error."""
        return _REASONS[self]


_REASONS = {
    Fault.NONE: "no fault",
    Fault.UNREADABLE: "the shard cannot be opened or read",
    Fault.SHORT_READ: "the shard ends before the payload does",
    Fault.CHECKSUM: "the payload's checksum differs from the manifest's",
    Fault.SHAPE: "the payload's size does not fit the shape in the manifest",
}


class BadSampleError(Exception):
    """A sample that cannot be used, and why."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.describe())
        self.fault = fault


class ShardReader:
    """Reads payloads by (shard, offset, size), with one file descriptor per shard and process."""

    def __init__(self) -> None:
        self._files: OrderedDict[tuple[int, Path], int] = OrderedDict()

    def read(self, sample: Sample) -> np.ndarray:
        """The voxels of a sample, int16 (z, y, x), read-only.

        Raises:
            BadSampleError: short read, checksum or shape mismatch, or an operating system error.
        """
        try:
            payload = os.pread(self._descriptor(sample.shard), sample.size, sample.offset)
        except OSError as error:
            raise BadSampleError(Fault.UNREADABLE) from error
        if len(payload) != sample.size:
            raise BadSampleError(Fault.SHORT_READ)
        if xxhash.xxh3_64_hexdigest(payload) != sample.checksum:
            raise BadSampleError(Fault.CHECKSUM)
        if sample.size != _PAYLOAD.itemsize * int(np.prod(sample.shape)):
            raise BadSampleError(Fault.SHAPE)
        return np.frombuffer(payload, dtype=_PAYLOAD).reshape(sample.shape)

    def close(self) -> None:
        """Close every open shard."""
        while self._files:
            os.close(self._files.popitem()[1])

    def _descriptor(self, shard: Path) -> int:
        """An open descriptor; a forked child opens its own rather than share its parent's."""
        name = (os.getpid(), shard)
        if name not in self._files:
            self._files[name] = os.open(shard, os.O_RDONLY | os.O_CLOEXEC)
            if len(self._files) > _OPEN_SHARDS:
                os.close(self._files.popitem(last=False)[1])
        self._files.move_to_end(name)
        return self._files[name]
