"""MINC-1 (netCDF) and MINC-2 (HDF5), through nibabel."""

from __future__ import annotations

import io
import math
import tempfile
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.fileholders import FileHolder
from numpy.typing import NDArray

from mri_fm.volume.readers.image import Image
from mri_fm.volume.refusal import Refusal
from mri_fm.volume.voxels import CHUNK_BYTES, MAX_INFLATION, check_promise, open_stream, read_content, sniff_codec

MAGIC_1 = (b"CDF\x01", b"CDF\x02")
MAGIC_2 = b"\x89HDF\r\n\x1a\n"
MAX_BYTES = 1 << 32


def recognises(start: bytes) -> bool:
    """Whether a file's inflated start is netCDF or HDF5."""
    return start.startswith((*MAGIC_1, MAGIC_2))


def read_header(path: Path) -> Image:
    """The header of the file.

    Raises:
        Refusal: not_readable, truncated.
        MincError: of nibabel.
    """
    image = _open(path)
    stored = tuple(int(n) for n in image.shape)  # time leads, space follows
    dtype = np.dtype(image.get_data_dtype())
    deflated = bool(sniff_codec(path)) or isinstance(image, nibabel.Minc2Image)

    def load(volume: int) -> NDArray[Any]:
        check_promise(math.prod(stored) * dtype.itemsize, path, deflated=deflated)
        return np.asanyarray(image.dataobj).reshape(-1, *stored[-3:])[volume]

    return Image((*stored[-3:], *stored[:-3]), dtype, lambda: np.array(image.affine, np.float64), load)


def _open(path: Path) -> Any:
    """HDF5 is read where it lies, or inflated to a copy; netCDF from memory: its header decides how much is read at once."""
    codec = sniff_codec(path)
    limit = min(MAX_BYTES, path.stat().st_size * (MAX_INFLATION if codec else 1))
    with open_stream(path, 0, codec) as stream:
        hdf5 = stream.read(len(MAGIC_2)) == MAGIC_2
    if hdf5 and codec:
        return _open_inflated(path, codec, limit)
    if hdf5:
        return nibabel.Minc2Image.from_file_map({"image": FileHolder(str(path))})
    return nibabel.Minc1Image.from_file_map({"image": FileHolder(fileobj=io.BytesIO(read_content(path, limit)))})


def _open_inflated(path: Path, codec: str, limit: int) -> Any:
    """HDF5 needs a file to seek in; it stays open, and so there, after its name is gone."""
    with tempfile.NamedTemporaryFile(suffix=".mnc") as copy, open_stream(path, 0, codec) as stream:
        while chunk := stream.read(CHUNK_BYTES):
            limit -= copy.write(chunk)
            if limit < 0:
                raise Refusal("too_large", "HDF5 that expands beyond all measure")
        copy.flush()
        return nibabel.Minc2Image.from_file_map({"image": FileHolder(copy.name)})
