"""MRtrix's MIF, MIF.GZ, and MIH with its voxels in a file of their own; no library in Python reads them.

The format: mrtrix.readthedocs.io, "The image formats supported by MRtrix3". A text header of `key: value` lines up to END.
`layout` gives for each axis its rank among the strides (0 is the fastest) and the direction in which it is stored.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.volumeutils import apply_read_scaling
from numpy.typing import NDArray

from mri_fm.volume.readers.image import Image, named
from mri_fm.volume.refusal import Refusal
from mri_fm.volume.voxels import Stored, open_stream, sniff_codec

MAGIC = b"mrtrix image"
MAX_HEADER_BYTES = 1 << 20
DATA_TYPE = re.compile(r"(C?)(U?Int|Float)(8|16|32|64)(LE|BE)?$")
KINDS = {"Int": "i", "UInt": "u", "Float": "f"}


def recognises(start: bytes) -> bool:
    """Whether a file's inflated start is MRtrix's magic."""
    return start.startswith(MAGIC)


def read_header(path: Path) -> Image:
    """The header of the file, attached or not.

    Raises:
        Refusal: not_readable, not_3d or truncated.
    """
    fields = _fields(path)
    shape = tuple(int(n) for n in _one(fields, "dim").split(","))
    ranks, reversed_axes = _layout(_one(fields, "layout"), len(shape))
    by_rank = tuple(int(axis) for axis in np.argsort(ranks))
    stored, bits = _stored(path, fields, tuple(shape[axis] for axis in by_rank))
    intercept, slope = map(float, fields["scaling"][-1].split(",")) if "scaling" in fields else (0.0, 1.0)

    def load(volume: int) -> NDArray[Any]:
        array = (_load_bits(stored) if bits else stored.load()).transpose(ranks)
        array = array[tuple(slice(None, None, -1 if back else 1) for back in reversed_axes)]
        return apply_read_scaling(array.reshape(*shape[:3], -1, order="F")[..., volume], slope, intercept)

    return Image(shape, stored.dtype, lambda: _affine(fields), load)


def _fields(path: Path) -> dict[str, list[str]]:
    """The header's lines by key."""
    fields: dict[str, list[str]] = defaultdict(list)
    with open_stream(path, 0, sniff_codec(path)) as stream:
        header, end, _ = stream.read(MAX_HEADER_BYTES).partition(b"\nEND")
    if not end:
        raise Refusal("truncated", "a MIF header without its END")
    for line in header.decode("utf-8", "replace").splitlines()[1:]:
        key, _, value = line.partition(":")
        fields[key.strip().lower()].append(value.strip())
    return dict(fields)


def _one(fields: dict[str, list[str]], key: str) -> str:
    if key not in fields:
        raise Refusal("not_readable", f"a MIF header without '{key}'")
    return fields[key][-1]


def _layout(text: str, dimensions: int) -> tuple[list[int], list[bool]]:
    """Rank among the strides, and whether it is stored backwards, of each axis."""
    parts = [part.strip() for part in text.split(",")]
    ranks = [int(part.lstrip("+-")) for part in parts]
    if sorted(ranks) != list(range(dimensions)):
        raise Refusal("not_readable", f"MIF layout '{text}' for {dimensions} axes")
    return ranks, [part.startswith("-") for part in parts]


def _stored(path: Path, fields: dict[str, list[str]], shape: tuple[int, ...]) -> tuple[Stored, bool]:
    """Where the voxels lie, and whether they are bits."""
    if min(shape) < 1 or len(shape) < 3:
        raise Refusal("not_3d", f"shape {shape}")
    if len(fields.get("file", ())) > 1:
        raise Refusal("not_readable", "a MIF header with several files of voxels")
    name, _, offset = _one(fields, "file").rpartition(" ")
    if not name or not offset.isdecimal():
        name, offset = _one(fields, "file"), "0"
    file = path if name == "." else named(path, name)
    bits = _one(fields, "datatype") == "Bit"
    dtype = np.dtype(np.uint8) if bits else _dtype(_one(fields, "datatype"))
    return Stored(file, dtype, shape, skip=int(offset), codec=sniff_codec(file)), bits


def _dtype(name: str) -> np.dtype[Any]:
    match = DATA_TYPE.match(name)
    if match is None:
        raise Refusal("not_readable", f"MIF datatype '{name}'")
    is_complex, kind, bits, order = match.groups()
    size = int(bits) // 8 * (2 if is_complex else 1)
    return np.dtype(f"{'>' if order == 'BE' else '<'}{'c' if is_complex else KINDS[kind]}{size}")


def _load_bits(stored: Stored) -> NDArray[np.uint8]:
    """Bits lie eight to a byte, the first one highest."""
    count = math.prod(stored.shape)
    packed = Stored(stored.file, stored.dtype, (-(-count // 8),), stored.start, stored.skip, stored.codec)
    return np.unpackbits(packed.load(), count=count).reshape(stored.shape, order="F")


def _affine(fields: dict[str, list[str]]) -> NDArray[np.float64]:
    """`transform` maps millimetres along the axes to the scanner's; `vox` scales voxels to millimetres."""
    if "transform" not in fields or "vox" not in fields:
        raise Refusal("no_orientation", "a MIF header without 'transform' or 'vox'")
    rows = [[float(number) for number in row.split(",")] for row in fields["transform"][:3]]
    affine = np.eye(4)
    affine[:3] = rows
    affine[:3, :3] *= [float(number) for number in fields["vox"][-1].split(",")[:3]]
    return affine
