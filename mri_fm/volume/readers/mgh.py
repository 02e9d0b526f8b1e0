"""FreeSurfer's MGH, and MGZ, which is the same gzipped."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from mri_fm.volume.readers.image import Image
from mri_fm.volume.refusal import Refusal
from mri_fm.volume.voxels import Stored, open_stream, sniff_codec

HEADER_BYTES = 284
VERSION = (1).to_bytes(4, "big")
GOOD_RAS = slice(28, 30)


def recognises(start: bytes) -> bool:
    """Whether a file's inflated start is an MGH header: version 1, and a voxel type that there is."""
    return start[:4] == VERSION and len(start) >= HEADER_BYTES and start[20:23] == b"\0\0\0" and start[23] < 12


def read_header(path: Path) -> Image:
    """The header of the file.

    Raises:
        HeaderDataError: of nibabel.
    """
    codec = sniff_codec(path)
    with open_stream(path, 0, codec) as stream:
        start = stream.read(HEADER_BYTES)
    header = nibabel.freesurfer.mghformat.MGHHeader(start)
    shape = tuple(int(n) for n in header.get_data_shape())
    stored = Stored(path, header.get_data_dtype(), shape, skip=HEADER_BYTES, codec=codec)

    def affine() -> NDArray[np.float64]:
        if int.from_bytes(start[GOOD_RAS], "big") != 1:  # nibabel would put an affine of its own in its place
            raise Refusal("no_orientation", "goodRASFlag is not set")
        return np.array(header.get_affine(), np.float64)

    def load(volume: int) -> NDArray[Any]:
        return stored.load(volume * math.prod(shape[:3]), shape[:3])

    return Image(shape, stored.dtype, affine, load)
