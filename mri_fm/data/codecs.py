"""How the payload of a sample is stored: as it is, or compressed without loss.

A codec has a name (`--codec` of the build, column `codec` of the manifest) and the extension that its payload bears in a
shard. All write the same bytes for the same voxels with the same version of the library, and give the same voxels back.

`lz4`, little-endian: Z int32 block sizes, then Z LZ4 blocks without a size of their own, one per plane (y, x). Blocks of one
inflated size are what DALI's `decoders.inflate` takes on a GPU. `blosc-lz4-shuffle`: one Blosc frame; the shuffle of bytes
helps where noise fills the low byte, at most 2 GiB per volume.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mri_fm.errors import UserError

VOXEL = np.dtype("<i2")
_BLOCK_SIZE = np.dtype("<i4")


@dataclass(frozen=True)
class Codec:
    """One way to store a volume.

    Attributes:
        name: as the build and the manifest call it.
        extension: of the payload in a shard.
        package: what it needs besides NumPy; "": nothing.
        encode: int16 (z, y, x) → payload.
        decode: (payload, shape) → int16 (z, y, x), perhaps read-only; ValueError or RuntimeError if the payload is none.
    """

    name: str
    extension: str
    package: str
    encode: Callable[[NDArray[np.int16]], bytes]
    decode: Callable[[bytes, Sequence[int]], NDArray[np.int16]]


def find_codec(name: str) -> Codec:
    """The codec of that name.

    Raises:
        UserError: there is none, or its package is not installed.
    """
    if name not in CODECS:
        raise UserError(f"'{name}' is no codec of this version; there are {', '.join(CODECS)}")
    codec = CODECS[name]
    if codec.package and importlib.util.find_spec(codec.package) is None:
        raise UserError(f"codec {name} needs the package {codec.package}, which is not installed: pip install {codec.package}")
    return codec


def check_codecs(names: Iterable[str], where: str) -> None:
    """Refuse payloads that this installation cannot decode.

    Raises:
        UserError: see `find_codec`; `where` names the corpus.
    """
    for name in sorted(set(names)):
        try:
            find_codec(name)
        except UserError as error:
            raise UserError(f"{where}: {error}") from error


def lz4_blocks(payload: bytes, planes: int) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """The blocks of an `lz4` payload one after the other, and the bytes of each.

    Raises:
        ValueError: it does not hold that many blocks.
    """
    sizes = np.frombuffer(payload, _BLOCK_SIZE, planes)
    blocks = np.frombuffer(payload, np.uint8, offset=sizes.nbytes)
    if sizes.min(initial=0) < 0 or sizes.sum(dtype=np.int64) != blocks.size:
        raise ValueError(f"block sizes add up to {sizes.sum()}, not to the {blocks.size} bytes that there are")
    return blocks, sizes


def _encode_raw(voxels_ZYX: NDArray[np.int16]) -> bytes:
    return voxels_ZYX.astype(VOXEL, copy=False).tobytes()


def _decode_raw(payload: bytes, shape: Sequence[int]) -> NDArray[np.int16]:
    return np.frombuffer(payload, VOXEL).reshape(shape)


def _encode_lz4(voxels_ZYX: NDArray[np.int16]) -> bytes:
    import lz4.block

    planes = np.ascontiguousarray(voxels_ZYX, VOXEL)
    blocks = [lz4.block.compress(plane, mode="high_compression", store_size=False) for plane in planes]
    return np.array([len(block) for block in blocks], _BLOCK_SIZE).tobytes() + b"".join(blocks)


def _decode_lz4(payload: bytes, shape: Sequence[int]) -> NDArray[np.int16]:
    import lz4.block

    blocks, sizes = lz4_blocks(payload, shape[0])
    ends = sizes.cumsum()
    plane = VOXEL.itemsize * int(np.prod(shape[1:]))
    cut = zip(ends - sizes, ends, strict=True)
    inflated = [lz4.block.decompress(blocks[start:end], uncompressed_size=plane) for start, end in cut]
    return _decode_raw(b"".join(inflated), shape)


def _encode_blosc(voxels_ZYX: NDArray[np.int16]) -> bytes:
    from numcodecs import blosc

    threaded, blosc.use_threads = blosc.use_threads, False  # threads would write their blocks in the order they end in
    try:
        return bytes(blosc.Blosc("lz4", clevel=5, shuffle=blosc.SHUFFLE).encode(np.ascontiguousarray(voxels_ZYX, VOXEL)))
    finally:
        blosc.use_threads = threaded


def _decode_blosc(payload: bytes, shape: Sequence[int]) -> NDArray[np.int16]:
    from numcodecs import blosc

    return _decode_raw(blosc.decompress(payload), shape)


RAW = Codec("raw", "raw", "", _encode_raw, _decode_raw)
LZ4 = Codec("lz4", "raw.lz4", "lz4", _encode_lz4, _decode_lz4)
BLOSC = Codec("blosc-lz4-shuffle", "raw.blosc", "numcodecs", _encode_blosc, _decode_blosc)
CODECS = {codec.name: codec for codec in (RAW, LZ4, BLOSC)}
