"""What every reader returns: an image whose header is read and whose voxels are not."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mri_fm.volume.refusal import Refusal

MM_PER_UNIT = {"m": 1e3, "cm": 10.0, "mm": 1.0, "um": 1e-3, "µm": 1e-3, "μm": 1e-3, "micron": 1e-3}


@dataclass(frozen=True)
class Image:
    """An image on disk.

    Attributes:
        shape: i, j, k, then the axes along which there are several volumes.
        dtype: of a stored voxel.
        affine: gives the float64 (4, 4) matrix (i, j, k, 1) → RAS+ millimetres; raises Refusal no_orientation.
        load: number of a volume → its (I, J, K) array, real numbers, scaled as the header says.
        info: what the header said that tells contrast, modality or species; nothing personal.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    affine: Callable[[], NDArray[np.float64]]
    load: Callable[[int], NDArray[Any]]
    info: dict[str, str] = field(default_factory=dict)

    @property
    def volumes(self) -> int:
        """How many volumes it has."""
        return math.prod(self.shape[3:])


def beside(header: Path, suffixes: Sequence[str]) -> Path:
    """The file that holds a header's voxels: the header's name with another suffix, in the header's case or any other.

    Raises:
        FileNotFoundError: none of them is there.
    """
    stem = header.name[:-3] if header.name.lower().endswith(".gz") else header.name
    stem = stem[: len(stem) - len(Path(stem).suffix)]
    for suffix in suffixes:
        for name in (stem + suffix.lower(), stem + suffix.upper(), stem + suffix):
            if (header.parent / name).is_file():
                return header.parent / name
    raise FileNotFoundError(header)


def named(header: Path, name: str) -> Path:
    """The file that a header names, which may lie beside it or below, and nowhere else.

    Raises:
        Refusal: not_readable.
        FileNotFoundError: it is not there.
    """
    parts = Path(name.strip()).parts
    if not parts or Path(name).is_absolute() or ".." in parts:
        raise Refusal("not_readable", "the header names a file of voxels outside its folder")
    path = header.parent.joinpath(*parts)
    if not path.is_file():
        raise FileNotFoundError(path)
    return path
