"""NIfTI-1 and -2, one file or two; Analyze headers are told from them and refused, since they have no left and right."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.volumeutils import apply_read_scaling
from numpy.typing import NDArray

from mri_fm.volume.readers.image import MM_PER_UNIT, Image, beside
from mri_fm.volume.refusal import Refusal
from mri_fm.volume.voxels import Stored, open_stream, sniff_codec

SIZE_1, SIZE_2 = 348, 540
STATISTICS = range(2, 25)  # intent codes NIFTI_INTENT_CORREL…NIFTI_INTENT_LOG10PVAL (nifti1.h)
ESTIMATE, LABEL, NAME = 1001, 1002, 1003
UNKNOWN_UNIT = "unknown"


def recognises(start: bytes) -> bool:
    """Whether a file's inflated start is a NIfTI or Analyze header."""
    return _header_class(start) is not None


def read_header(path: Path) -> Image:
    """The header of the file, or of the .hdr of a pair.

    Raises:
        Refusal: not_mr, label or derived_map, if the intent code says so; no_orientation for Analyze.
        HeaderDataError: of nibabel.
    """
    codec = sniff_codec(path)
    with open_stream(path, 0, codec) as stream:
        start = stream.read(SIZE_2)
    kind = _header_class(start)
    assert kind is not None, "recognises() was asked first"
    header = kind(start[: SIZE_2 if issubclass(kind, nibabel.Nifti2Header) else SIZE_1])
    if not issubclass(kind, nibabel.Nifti1Header):
        return _image(header, beside(path, (".img", ".img.gz")))
    _check_intent(int(header["intent_code"]))
    file = path if header.is_single else beside(path, (".img", ".img.gz"))
    return _image(header, file)


def _header_class(start: bytes) -> Any:
    sizes = {start[:4] == size.to_bytes(4, order) and size for size in (SIZE_1, SIZE_2) for order in ("little", "big")}
    if start[4:7] in (b"n+2", b"ni2") and len(start) >= SIZE_2:
        return nibabel.Nifti2Header if start[4:7] == b"n+2" else nibabel.nifti2.Nifti2PairHeader
    if start[344:347] in (b"n+1", b"ni1") and len(start) >= SIZE_1:
        return nibabel.Nifti1Header if start[344:347] == b"n+1" else nibabel.nifti1.Nifti1PairHeader
    return nibabel.AnalyzeHeader if SIZE_1 in sizes and len(start) >= SIZE_1 else None


def _check_intent(code: int) -> None:
    if code in STATISTICS:
        raise Refusal("not_mr", f"NIfTI intent code {code}, a statistic")
    if code in (LABEL, NAME):
        raise Refusal("label", f"NIfTI intent code {code}")
    if code == ESTIMATE:
        raise Refusal("derived_map", f"NIfTI intent code {code}, an estimate")


def _image(header: Any, file: Path) -> Image:
    shape = tuple(int(n) for n in header.get_data_shape())
    offset = int(header.get_data_offset())
    if offset < 0:
        raise Refusal("not_readable", f"voxels {-offset} bytes before the file begins")
    stored = Stored(file, header.get_data_dtype(), shape, skip=offset, codec=sniff_codec(file))
    slope, intercept = header.get_slope_inter()

    def load(volume: int) -> NDArray[Any]:
        array = stored.load(volume * math.prod(shape[:3]), shape[:3])
        return apply_read_scaling(array, slope, intercept)

    return Image(shape, stored.dtype, lambda: _affine(header), load)


def _affine(header: Any) -> NDArray[np.float64]:
    """The sform, or the qform where there is no sform that can be inverted, in millimetres."""
    if not isinstance(header, nibabel.Nifti1Header):
        raise Refusal("no_orientation", "Analyze headers do not tell left from right")
    if not int(header["sform_code"]) and not int(header["qform_code"]):
        raise Refusal("no_orientation", "qform_code and sform_code are both 0")
    for code, get in (("sform_code", header.get_sform), ("qform_code", header.get_qform)):
        if int(header[code]) and (affine := _invertible(get)) is not None:
            return np.diag([*[_unit(header)] * 3, 1.0]) @ affine
    raise Refusal("no_orientation", "the affine cannot be inverted")


def _invertible(get: Any) -> NDArray[np.float64] | None:
    try:
        affine = np.array(get(), np.float64)
    except ValueError:  # a quaternion that is none
        return None
    return affine if np.isfinite(affine).all() and np.linalg.matrix_rank(affine[:3, :3]) == 3 else None


def _unit(header: Any) -> float:
    """Millimetres per spatial unit; what is unknown is taken for millimetres, as everyone does."""
    try:
        name = header.get_xyzt_units()[0]
    except KeyError:
        name = UNKNOWN_UNIT
    return 1.0 if name == UNKNOWN_UNIT else MM_PER_UNIT.get({"meter": "m", "micron": "um"}.get(name, name), 1.0)
