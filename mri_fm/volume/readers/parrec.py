"""Philips' PAR/REC, through nibabel; the text file is the input, the .REC beside it holds the voxels."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.parrec import PARRECArrayProxy, PARRECHeader
from numpy.typing import NDArray

from mri_fm.volume.readers.image import Image, beside
from mri_fm.volume.refusal import Refusal
from mri_fm.volume.voxels import check_promise

MAGNITUDE = 0  # of image_type_mr; 1, 2, 3 are real, imaginary, phase


def recognises(start: bytes) -> bool:
    """Whether a file's start is the comment every PAR file begins with."""
    return b"DATA DESCRIPTION FILE" in start[:120]


def read_header(path: Path) -> Image:
    """The text header.

    Raises:
        Refusal: derived_map for phase, real or imaginary parts.
        PARRECError: of nibabel.
    """
    with path.open(errors="replace") as stream:
        header = PARRECHeader.from_fileobj(stream)
    kinds = set(np.atleast_1d(header.image_defs["image_type_mr"]).tolist())
    if MAGNITUDE not in kinds:
        raise Refusal("derived_map", f"PAR image types {sorted(kinds)}, no magnitude")
    shape = tuple(int(n) for n in header.get_data_shape())
    dtype = np.dtype(header.get_data_dtype())

    def load(volume: int) -> NDArray[Any]:
        file = beside(path, (".rec",))
        check_promise(math.prod(shape) * dtype.itemsize, file, deflated=False)
        return np.asanyarray(PARRECArrayProxy(str(file), header)).reshape(*shape[:3], -1, order="F")[..., volume]

    return Image(shape, dtype, lambda: np.array(header.get_affine(), np.float64), load)
