"""MetaImage: MHA, and MHD with its voxels in a file of their own (itk.org, "MetaIO/Documentation").

SimpleITK, which knows the format, is the reference in the tests and does not read here: a damaged header ends its process.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mri_fm.volume.readers.image import Image, named
from mri_fm.volume.refusal import Refusal
from mri_fm.volume.voxels import PLAIN, ZLIB, Stored, load_text

MAX_HEADER_BYTES = 1 << 16
FIELD = re.compile(rb"^[ \t]*(\w+)[ \t]*=[ \t]*(.*?)[ \t]*\r?$", re.MULTILINE)
END = re.compile(rb"^[ \t]*ElementDataFile[ \t]*=.*\n?", re.MULTILINE)  # the last line of the header
ORIENTATION = ("TransformMatrix", "Orientation", "Rotation")
ORIGIN = ("Offset", "Position", "Origin")
SPACING = ("ElementSpacing", "ElementSize")
ORDER = ("BinaryDataByteOrderMSB", "ElementByteOrderMSB")
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])
TYPES = {
    "CHAR": "i1", "UCHAR": "u1", "SHORT": "i2", "USHORT": "u2", "INT": "i4", "UINT": "u4", "LONG": "i4", "ULONG": "u4",
    "LONG_LONG": "i8", "ULONG_LONG": "u8", "FLOAT": "f4", "DOUBLE": "f8",
}  # fmt: skip


def recognises(start: bytes) -> bool:
    """Whether a file's start is the header of a MetaImage."""
    return bool(re.match(rb"\s*(Comment|ObjectType|NDims)\s*=", start)) and b"NDims" in start


def read_header(path: Path) -> Image:
    """The header of the file, attached or not.

    Raises:
        Refusal: not_readable, truncated, not_3d or not_mr.
        ValueError: a field that should hold numbers does not.
    """
    fields, end = _fields(path)
    if not fields.get("Modality", "MET_MOD_MR").upper().endswith(("_MR", "_UNKNOWN", "_OTHER")):
        raise Refusal("not_mr", f"MetaImage modality {fields['Modality']}")
    channels = int(fields.get("ElementNumberOfChannels", 1))
    if channels != 1 or fields.get("ElementType", "").endswith("_ARRAY"):
        raise Refusal("not_3d", f"{channels} channels of {fields.get('ElementType')} per voxel")
    stored = _stored(path, fields, end)
    is_text = not _flag(fields, "BinaryData", default=True)

    def load(volume: int) -> NDArray[Any]:
        array = load_text(stored) if is_text else stored.load()
        return array.reshape(*stored.shape[:3], -1, order="F")[..., volume]

    return Image(stored.shape, stored.dtype, lambda: _affine(fields, len(stored.shape)), load)


def _fields(path: Path) -> tuple[dict[str, str], int]:
    """The fields of the header, and the byte at which what follows begins."""
    with path.open("rb") as stream:
        start = stream.read(MAX_HEADER_BYTES)
    end = END.search(start)
    if end is None:
        raise Refusal("truncated", "a MetaImage header without ElementDataFile")
    pairs = FIELD.findall(start[: end.end()])
    return {name.decode(): value.decode("utf-8", "replace") for name, value in pairs}, end.end()


def _stored(path: Path, fields: dict[str, str], end: int) -> Stored:
    shape = tuple(int(n) for n in fields.get("DimSize", "").split())
    if len(shape) != int(fields.get("NDims", 0)) or len(shape) < 3 or min(shape) < 1:
        raise Refusal("not_3d", f"NDims {fields.get('NDims')}, DimSize {shape}")
    element = fields.get("ElementType", "").removeprefix("MET_")
    if element not in TYPES:
        raise Refusal("not_readable", f"MetaImage element type '{element}'")
    msb = any(_flag(fields, name, default=False) for name in ORDER)
    dtype = np.dtype((">" if msb else "<") + TYPES[element])
    file, start = _data_file(path, fields["ElementDataFile"], end)
    codec = ZLIB if _flag(fields, "CompressedData", default=False) else PLAIN
    skip = int(fields.get("HeaderSize", 0))
    if skip == -1:  # the voxels end the file
        skip = file.stat().st_size - start - int(np.prod(shape, dtype=object)) * dtype.itemsize
    if skip < 0:
        raise Refusal("truncated", "the voxels begin before the file does")
    return Stored(file, dtype, shape, start + skip, codec=codec)


def _data_file(path: Path, name: str, end: int) -> tuple[Path, int]:
    """The file that holds the voxels, and the byte at which they, or their compressed stream, begin."""
    if name.split()[:1] == ["LIST"] or "%" in name:
        raise Refusal("not_readable", "a MetaImage header with several files of voxels")
    return (path, end) if name.upper() == "LOCAL" else (named(path, name), 0)


def _flag(fields: dict[str, str], name: str, *, default: bool) -> bool:
    return fields[name].lower() in ("true", "1") if name in fields else default


def _numbers(fields: dict[str, str], names: tuple[str, ...], count: int) -> NDArray[np.float64] | None:
    """The numbers of the first of `names` that the header has.

    Raises:
        ValueError: they are not `count`, or no numbers.
    """
    text = next((fields[name] for name in names if name in fields), None)
    return None if text is None else np.array([float(word) for word in text.split()]).reshape(count)


def _affine(fields: dict[str, str], dimensions: int) -> NDArray[np.float64]:
    """TransformMatrix holds the direction of one axis after the other, in LPS."""
    directions = _numbers(fields, ORIENTATION, dimensions**2)
    spacing = _numbers(fields, SPACING, dimensions)
    if directions is None or spacing is None:
        raise Refusal("no_orientation", f"a MetaImage header without {ORIENTATION[0]} or {SPACING[0]}")
    origin = _numbers(fields, ORIGIN, dimensions)
    affine = np.eye(4)
    affine[:3, :3] = LPS_TO_RAS @ directions.reshape(dimensions, dimensions)[:3, :3].T * spacing[:3]
    affine[:3, 3] = LPS_TO_RAS @ (np.zeros(3) if origin is None else origin[:3])
    return affine
