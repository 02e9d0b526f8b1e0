"""NRRD, and NHDR with its voxels in a file of their own: the header through pynrrd (teem.sourceforge.net/nrrd/format.html)."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import nrrd
import numpy as np
from nrrd.reader import _TYPEMAP_NRRD2NUMPY as TYPES
from numpy.typing import NDArray

from mri_fm.volume.readers.image import MM_PER_UNIT, Image, named
from mri_fm.volume.refusal import Refusal
from mri_fm.volume.voxels import BZIP2, GZIP, PLAIN, Stored, load_text

CODECS = {"raw": PLAIN, "gzip": GZIP, "gz": GZIP, "bzip2": BZIP2, "bz2": BZIP2}
TEXT_ENCODINGS = ("ascii", "text", "txt")
SIGNS_TO_RAS = {"R": 1, "L": -1, "A": 1, "P": -1, "S": 1, "I": -1}
MAX_HEADER_BYTES = 1 << 20
ENDIAN = {"little": "<", "big": ">"}


def recognises(start: bytes) -> bool:
    """Whether a file starts with NRRD's magic."""
    return start.startswith(b"NRRD000")


def read_header(path: Path) -> Image:
    """The header of the file, attached or not.

    Raises:
        Refusal: not_readable, not_3d.
        NRRDError: of pynrrd.
    """
    lines, end = _header_lines(path)
    header = {name.replace(" ", ""): value for name, value in nrrd.read_header(lines).items()}
    stored = _stored(path, header, end)
    space = _spatial_axes(header)
    others = [axis for axis in range(len(stored.shape)) if axis not in space]
    shape = tuple(stored.shape[axis] for axis in (*space, *others))

    def load(volume: int) -> NDArray[Any]:
        is_text = str(header["encoding"]).lower() in TEXT_ENCODINGS
        array = (load_text(stored) if is_text else stored.load()).transpose(*space, *others)
        return array.reshape(*shape[:3], -1, order="F")[..., volume]

    return Image(shape, stored.dtype, lambda: _affine(header, space), load)


def _header_lines(path: Path) -> tuple[list[bytes], int]:
    """The lines of the header, and the byte at which what follows begins."""
    lines, size = [], 0
    with path.open("rb") as stream:
        while (line := stream.readline(MAX_HEADER_BYTES)).strip():
            lines.append(line)
            size += len(line)
            if size > MAX_HEADER_BYTES:
                raise Refusal("not_readable", f"a NRRD header of more than {MAX_HEADER_BYTES} bytes")
        return lines, stream.tell()


def _stored(path: Path, header: dict[str, Any], end: int) -> Stored:
    encoding = str(header["encoding"]).lower()
    if encoding not in (*CODECS, *TEXT_ENCODINGS):
        raise Refusal("not_readable", f"NRRD encoding {encoding}")
    shape = tuple(int(n) for n in header["sizes"])
    if len(shape) != int(header["dimension"]) or min(shape) < 1:
        raise Refusal("not_3d", f"dimension {header['dimension']}, sizes {shape}")
    dtype = np.dtype(TYPES[header["type"]])
    if dtype.itemsize > 1 and encoding not in TEXT_ENCODINGS:
        dtype = dtype.newbyteorder(ENDIAN[header["endian"]])
    file, start = _data_file(path, header, end)
    start += _line_skip(file, start, int(header.get("lineskip", 0)))
    skip = int(header.get("byteskip", 0))
    if skip == -1:  # the voxels end the file
        skip = file.stat().st_size - start - math.prod(shape) * dtype.itemsize
    if skip < 0:
        raise Refusal("truncated" if header.get("byteskip") == -1 else "not_readable", "the voxels begin before the file does")
    return Stored(file, dtype, shape, start, skip, CODECS.get(encoding, PLAIN))


def _data_file(path: Path, header: dict[str, Any], end: int) -> tuple[Path, int]:
    name = header.get("datafile")
    if name is None:
        return path, end
    if name.split()[0] == "LIST" or re.search(r"%\d*d", name):
        raise Refusal("not_readable", "a NRRD header with several files of voxels")
    return named(path, name), 0


def _line_skip(file: Path, start: int, lines: int) -> int:
    """Bytes of the lines to skip, as far as there are any."""
    skipped = 0
    with file.open("rb") as stream:
        stream.seek(start)
        while lines > 0 and (line := stream.readline(MAX_HEADER_BYTES)):
            skipped, lines = skipped + len(line), lines - 1
    return skipped


def _spatial_axes(header: dict[str, Any]) -> list[int]:
    """The three axes with a direction in space; the first three where none has one."""
    directions = header.get("spacedirections")
    if directions is None:
        if int(header["dimension"]) < 3:
            raise Refusal("not_3d", f"dimension {header['dimension']}")
        return [0, 1, 2]
    axes = [axis for axis, row in enumerate(directions) if row is not None and np.isfinite(np.asarray(row, float)).all()]
    if len(axes) != 3:
        raise Refusal("not_3d", f"{len(axes)} axes lie in space")
    return axes


def _affine(header: dict[str, Any], axes: list[int]) -> NDArray[np.float64]:
    letters = _axis_letters(str(header.get("space", "")))
    if letters is None or "spacedirections" not in header:
        raise Refusal("no_orientation", f"NRRD space '{header.get('space', '')}', no anatomical directions")
    directions = np.array([header["spacedirections"][axis] for axis in axes], np.float64)[:, :3].T
    origin = np.asarray(header.get("spaceorigin", (0, 0, 0)), np.float64)[:3]
    to_ras = np.zeros((3, 3))
    units = header.get("spaceunits", ["mm"] * 3)
    for row, letter in enumerate(letters):
        to_ras["RLAPSI".index(letter) // 2, row] = SIGNS_TO_RAS[letter] * MM_PER_UNIT.get(units[row], 1.0)
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = to_ras @ directions, to_ras @ origin
    return affine


def _axis_letters(space: str) -> str | None:
    """`left-posterior-superior` or LPS → "LPS"; None where the space is not the patient's."""
    words = space.removesuffix("-time").split("-")
    letters = "".join(word[0].upper() for word in words if word) if len(words) == 3 else space[:3].upper()
    sides = {frozenset("RL"), frozenset("AP"), frozenset("SI")}
    found = {side for side in sides for letter in letters if letter in side}
    return letters if len(letters) == 3 and found == sides and (len(words) == 3 or len(space) in (3, 4)) else None
