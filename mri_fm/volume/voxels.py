"""Voxels in a file: where they lie, compressed or not, and reading as many as the header promises and the file can hold."""

from __future__ import annotations

import bz2
import io
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from isal import igzip
from numpy.typing import NDArray

from mri_fm.volume.refusal import Refusal

MAX_INFLATION = 1032  # deflate cannot expand further (zlib technical details); what bzip2 expands further is constant
MAX_TRAILER_BYTES = 1 << 20  # what may follow the voxels, e.g. the tags of an MGZ file
CHUNK_BYTES = 1 << 20
GZIP, BZIP2, ZLIB, PLAIN = "gzip", "bzip2", "zlib", ""
MAGIC = {b"\x1f\x8b\x08": GZIP, b"BZh": BZIP2}


@dataclass(frozen=True)
class Stored:
    """Voxels that lie in a file one after the other.

    Attributes:
        file: which holds them.
        dtype: of a voxel, with its byte order.
        shape: the fastest axis first.
        start: byte of the file at which the stream begins that is compressed by `codec`.
        skip: bytes of that stream, inflated, before the first voxel.
        codec: GZIP, BZIP2, ZLIB or PLAIN.
    """

    file: Path
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    start: int = 0
    skip: int = 0
    codec: str = PLAIN

    def load(self, first: int = 0, shape: tuple[int, ...] | None = None) -> NDArray[Any]:
        """Read voxels, and a compressed stream to its end so that its checksum is compared.

        Args:
            first: number of the first voxel.
            shape: of the part to read, the fastest axis first; all of it if None.

        Returns:
            An array of `shape`.

        Raises:
            Refusal: truncated, or not_readable where far more follows than the header promises.
        """
        shape = shape or self.shape
        itemsize = self.dtype.itemsize
        promised, wanted = math.prod(self.shape) * itemsize, math.prod(shape) * itemsize
        check_promise(self.skip + promised, self.file, self.start, deflated=bool(self.codec))
        with open_stream(self.file, self.start, self.codec) as stream:
            _pass_over(stream, self.skip + first * itemsize)
            content = _take(stream, wanted)
            if self.codec:
                _reach_end(stream, promised - first * itemsize - wanted + MAX_TRAILER_BYTES)
        return np.frombuffer(content, self.dtype).reshape(shape, order="F")


def sniff_codec(path: Path) -> str:
    """How a file is compressed, whatever its name says."""
    with path.open("rb") as stream:
        start = stream.read(3)
    return MAGIC.get(start, PLAIN)


def open_stream(path: Path, start: int = 0, codec: str = PLAIN) -> IO[bytes]:
    """The inflated content of a file from byte `start` on."""
    file = path.open("rb")
    file.seek(start)
    if codec == GZIP:
        return cast("IO[bytes]", _OwningGzip(file))
    if codec == ZLIB:
        return cast("IO[bytes]", _Zlib(file))
    return cast("IO[bytes]", bz2.BZ2File(file)) if codec == BZIP2 else file


class _OwningGzip(igzip.IGzipFile):
    """Closes the file beneath it too."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(fileobj=file, mode="rb")
        self._file = file

    def close(self) -> None:
        """Close both."""
        super().close()
        self._file.close()


class _Zlib(io.BufferedIOBase):
    """Inflates a zlib stream, and compares its checksum at the end."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._inflater = zlib.decompressobj()

    def read(self, size: int | None = -1, /) -> bytes:
        """At most `size` bytes; b"" at the end of the stream."""
        assert size is not None
        while not self._inflater.eof:
            packed = self._inflater.unconsumed_tail or self._file.read(CHUNK_BYTES)
            if not packed:
                raise EOFError("the zlib stream has no end")
            if content := self._inflater.decompress(packed, size):
                return content
        return b""

    def close(self) -> None:
        """Close the file beneath it too."""
        self._file.close()
        super().close()


def load_text(stored: Stored) -> NDArray[Any]:
    """Voxels that are written as numbers in text, from byte `start` on.

    Raises:
        Refusal: truncated.
    """
    count = math.prod(stored.shape)
    with stored.file.open("rb") as stream:
        stream.seek(stored.start)
        numbers = np.fromstring(stream.read().decode("ascii", "replace"), np.float64, sep=" ")
    if len(numbers) < count:
        raise Refusal("truncated", f"{len(numbers)} of {count} numbers are there")
    return numbers[:count].astype(stored.dtype).reshape(stored.shape, order="F")


def check_promise(promised: int, path: Path, start: int = 0, *, deflated: bool) -> None:
    """Compare the bytes that a header promises with those that the file can hold from `start` on.

    Raises:
        Refusal: truncated.
    """
    held = max(0, path.stat().st_size - start)
    if promised > held * (MAX_INFLATION if deflated else 1):
        raise Refusal("truncated", f"the header promises {promised} bytes, the file has {held}")


def read_content(path: Path, limit: int) -> bytes:
    """The inflated content of a whole file.

    Raises:
        Refusal: too_large, where it is more than `limit` bytes.
    """
    content = bytearray()
    with open_stream(path, 0, sniff_codec(path)) as stream:
        while chunk := stream.read(CHUNK_BYTES):
            content += chunk
            if len(content) > limit:
                raise Refusal("too_large", f"more than {limit} bytes")
    return bytes(content)


def _pass_over(stream: IO[bytes], size: int) -> None:
    if stream.seekable() and not isinstance(stream, igzip.IGzipFile | bz2.BZ2File):
        stream.seek(size, 1)
        return
    while size:
        passed = len(stream.read(min(CHUNK_BYTES, size)))
        if not passed:
            raise Refusal("truncated", "the file ends before its first voxel")
        size -= passed


def _take(stream: IO[bytes], size: int) -> bytearray:
    """The next `size` bytes. Memory grows with what arrives, so that a promise costs nothing."""
    content = bytearray()
    while len(content) < size:
        chunk = stream.read(min(CHUNK_BYTES, size - len(content)))
        if not chunk:
            raise Refusal("truncated", f"{len(content)} of {size} bytes of voxels are there")
        content += chunk
    return content


def _reach_end(stream: IO[bytes], limit: int) -> None:
    while chunk := stream.read(min(CHUNK_BYTES, limit + 1)):
        limit -= len(chunk)
        if limit < 0:
            raise Refusal("not_readable", f"more than {MAX_TRAILER_BYTES} bytes follow the voxels")
