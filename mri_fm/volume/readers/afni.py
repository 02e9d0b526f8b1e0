"""AFNI's HEAD and BRIK: the text header through nibabel, the voxels from the .BRIK or .BRIK.gz beside it."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.brikhead import AFNIHeader
from nibabel.volumeutils import apply_read_scaling
from numpy.typing import NDArray

from mri_fm.volume.readers.image import Image, beside
from mri_fm.volume.refusal import Refusal
from mri_fm.volume.voxels import Stored, sniff_codec

ATTRIBUTE = re.compile(rb"\s*type\s*=\s*(integer|float|string)-attribute")
STATISTICS = range(1, 11)  # FUNC_THR_TYPE…FUNC_PT_TYPE of SCENE_DATA (AFNI's README.attributes)


def recognises(start: bytes) -> bool:
    """Whether a file's start is an attribute of an AFNI header."""
    return ATTRIBUTE.match(start) is not None


def read_header(path: Path) -> Image:
    """The text header.

    Raises:
        Refusal: not_mr for a statistic.
        AFNIHeaderError: of nibabel.
    """
    with path.open(errors="replace") as stream:
        header = AFNIHeader.from_fileobj(stream)
    _refuse_statistics(header.info)
    file = beside(path, (".BRIK", ".BRIK.gz", ".BRIK.bz2"))
    shape = tuple(int(n) for n in header.get_data_shape())
    stored = Stored(file, np.dtype(header.get_data_dtype()), shape, codec=sniff_codec(file))
    scaling = header.get_data_scaling()

    def load(volume: int) -> NDArray[Any]:
        array = stored.load(volume * math.prod(shape[:3]), shape[:3])
        return array if scaling is None else apply_read_scaling(array, scaling[volume], 0.0)

    return Image(shape, stored.dtype, lambda: np.array(header.get_affine(), np.float64), load)


def _refuse_statistics(info: dict[str, Any]) -> None:
    function = "FUNC" in str(info.get("TYPESTRING", "")) and int(np.atleast_1d(info.get("SCENE_DATA", [0, 0]))[1]) in STATISTICS
    if function or "BRICK_STATAUX" in info:
        raise Refusal("not_mr", "an AFNI statistic")
