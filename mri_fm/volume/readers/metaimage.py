"""MetaImage: MHA, and MHD with its voxels in a file of their own, through SimpleITK."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from mri_fm.volume.readers.image import Image, named
from mri_fm.volume.refusal import Refusal
from mri_fm.volume.voxels import check_promise

MAX_HEADER_BYTES = 1 << 16
FIELD = re.compile(rb"^[ \t]*(\w+)[ \t]*=[ \t]*(.*?)[ \t]*\r?$", re.MULTILINE)
END = re.compile(rb"^[ \t]*ElementDataFile[ \t]*=.*\n?", re.MULTILINE)  # the last line of the header
ORIENTATION = ("TransformMatrix", "Orientation", "Rotation")
TEXT_BYTES = 2  # of a number in text, and what parts it from the next, at least
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])
TYPES = {
    sitk.sitkInt8: np.int8, sitk.sitkUInt8: np.uint8, sitk.sitkInt16: np.int16, sitk.sitkUInt16: np.uint16,
    sitk.sitkInt32: np.int32, sitk.sitkUInt32: np.uint32, sitk.sitkInt64: np.int64, sitk.sitkUInt64: np.uint64,
    sitk.sitkFloat32: np.float32, sitk.sitkFloat64: np.float64,
}  # fmt: skip


def recognises(start: bytes) -> bool:
    """Whether a file's start is the header of a MetaImage."""
    return bool(re.match(rb"\s*(Comment|ObjectType|NDims)\s*=", start)) and b"NDims" in start


def read_header(path: Path) -> Image:
    """The header of the file, attached or not.

    Raises:
        Refusal: not_readable, truncated, not_3d or not_mr.
        RuntimeError: of SimpleITK.
    """
    fields, end = _fields(path)
    if not fields.get("Modality", "MET_MOD_MR").upper().endswith(("_MR", "_UNKNOWN", "_OTHER")):
        raise Refusal("not_mr", f"MetaImage modality {fields['Modality']}")
    _check_file(path, fields, end)
    reader = sitk.ImageFileReader()
    reader.SetImageIO("MetaImageIO")
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    shape = tuple(int(n) for n in reader.GetSize())
    if reader.GetNumberOfComponents() != 1 or reader.GetPixelID() not in TYPES:
        raise Refusal("not_3d", f"{reader.GetNumberOfComponents()} components of {fields.get('ElementType')} per voxel")

    def load(volume: int) -> NDArray[Any]:
        array = sitk.GetArrayFromImage(reader.Execute()).T
        return array.reshape(*shape[:3], -1, order="F")[..., volume]

    return Image(shape, np.dtype(TYPES[reader.GetPixelID()]), lambda: _affine(reader, fields), load)


def _fields(path: Path) -> tuple[dict[str, str], int]:
    """The fields of the header, and the byte at which what follows begins."""
    with path.open("rb") as stream:
        start = stream.read(MAX_HEADER_BYTES)
    end = END.search(start)
    if end is None:
        raise Refusal("truncated", "a MetaImage header without ElementDataFile")
    pairs = FIELD.findall(start[: end.end()])
    return {name.decode(): value.decode("utf-8", "replace") for name, value in pairs}, end.end()


def _check_file(path: Path, fields: dict[str, str], end: int) -> None:
    """Refuse what names other files than one beside it, or promises more than that holds: SimpleITK would believe it."""
    name = fields["ElementDataFile"]
    if name.split()[:1] == ["LIST"] or "%" in name:
        raise Refusal("not_readable", "a MetaImage header with several files of voxels")
    file, start = (path, end) if name.upper() == "LOCAL" else (named(path, name), 0)
    deflated = fields.get("CompressedData", "").lower() in ("true", "1")
    is_text = fields.get("BinaryData", "true").lower() in ("false", "0")
    check_promise(int(fields.get("CompressedDataSize", 0)), file, start, deflated=False)
    count = math.prod(int(n) for n in fields.get("DimSize", "0").split())
    count *= int(fields.get("ElementNumberOfChannels", 1))
    itemsize = TEXT_BYTES if is_text else _itemsize(fields.get("ElementType", ""))
    check_promise(count * itemsize - is_text, file, start, deflated=deflated)


def _itemsize(element: str) -> int:
    sizes = {"CHAR": 1, "SHORT": 2, "INT": 4, "LONG": 4, "FLOAT": 4, "LONG_LONG": 8, "DOUBLE": 8}
    name = element.removeprefix("MET_").removesuffix("_ARRAY").removeprefix("U")
    if name not in sizes:
        raise Refusal("not_readable", f"MetaImage element type '{element}'")
    return sizes[name]


def _affine(reader: Any, fields: dict[str, str]) -> NDArray[np.float64]:
    if not any(name in fields for name in ORIENTATION):
        raise Refusal("no_orientation", f"a MetaImage header without {' or '.join(ORIENTATION)}")
    dimensions = len(reader.GetSize())
    direction = np.array(reader.GetDirection()).reshape(dimensions, dimensions)[:3, :3]
    affine = np.eye(4)
    affine[:3, :3] = LPS_TO_RAS @ direction * np.array(reader.GetSpacing()[:3])
    affine[:3, 3] = LPS_TO_RAS @ np.array(reader.GetOrigin()[:3])
    return affine
