"""Read a volume from any format of `mri_fm.volume.readers`, or from a DICOM series.

Whatever goes wrong with the input is a `Refusal`. A header is believed only as far as the file can hold what it promises,
so a broken one cannot make us allocate more than a small multiple of the file.
"""

from __future__ import annotations

import logging
import math
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
from isal import isal_zlib
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from mri_fm.errors import is_of_the_machine
from mri_fm.volume.dicom import convert_series
from mri_fm.volume.readers import open_image
from mri_fm.volume.readers.image import Image
from mri_fm.volume.refusal import Refusal
from mri_fm.volume.statements import check_sidecar, sidecar_of

MAX_VOXELS = 1024**3
ISAL_ERROR = cast("type[Exception]", isal_zlib.error)  # its stub calls it an instance
SMALLEST_DETERMINANT = 1e-9  # mm³, of a voxel


@dataclass(frozen=True)
class Volume:
    """A volume as it was stored.

    Attributes:
        array: (I, J, K), real numbers, scaled as the header says.
        affine: float64 (4, 4), voxel indices (i, j, k, 1) → RAS+ millimetres.
        dtype: name of the stored voxel type, for instance "int16".
        info: what a DICOM header said that helps to tell the contrast; nothing personal.
    """

    array: NDArray[Any]
    affine: NDArray[np.float64]
    dtype: str
    info: dict[str, str] = field(default_factory=dict)


def read_volume(path: Path, *, reference_volume: bool = False) -> Volume:
    """Read one image file.

    Args:
        path: the file; for formats of two files, the header (.hdr, .PAR, .HEAD, .nhdr, .mhd, .mih).
        reference_volume: take one volume of a series: the one of lowest b-value by a .bval file beside it, else the first.

    Raises:
        Refusal: not_readable, truncated, not_3d, no_orientation or too_large; or not_mr, derived_map, localizer, label or
            non_human, where the header or the sidecar says so.
    """
    with refuse_failures():
        if not path.is_file():  # opening a pipe would wait for ever
            raise Refusal("not_readable", "a link to nowhere, a pipe or a device, not a file")
        image = open_image(path)
        _check_shape(image, reference_volume)
        check_sidecar(path)
        array = image.load(_lowest_b_value(path, image.volumes))
        return Volume(array, _affine(image), image.dtype.name, image.info)


def read_series(files: list[Path], *, reference_volume: bool = False) -> Volume:
    """Read one DICOM series through dcm2niix.

    Raises:
        Refusal: as `read_volume`; also ambiguous_series.
    """
    with refuse_failures(), convert_series(files) as (nifti, info):
        volume = read_volume(nifti, reference_volume=reference_volume)
        return Volume(volume.array, volume.affine, volume.dtype, info)


@contextmanager
def refuse_failures() -> Iterator[None]:
    """Turn any failure of a reader into a `Refusal`, but those of the machine; keep its warnings off the terminal."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            logging.getLogger("nibabel").setLevel(logging.CRITICAL)
            yield
    except Refusal:
        raise
    except (EOFError, zlib.error, ISAL_ERROR) as error:
        raise Refusal("truncated", f"{type(error).__name__}: {error}") from error
    except FileNotFoundError as error:
        raise Refusal("not_readable", "the file that belongs to this header is missing") from error
    except MemoryError as error:
        raise Refusal("too_large", "the voxels do not fit into memory") from error
    except (ImageFileError, HeaderDataError) as error:
        raise Refusal("not_readable", f"a damaged header ({type(error).__name__})") from error
    except Exception as error:
        if is_of_the_machine(error):
            raise
        cut = "Expected" in str(error) and "bytes" in str(error)  # nibabel's only sign of a short read
        raise Refusal("truncated" if cut else "not_readable", f"{type(error).__name__}: {_without_paths(error)}") from error


def _without_paths(error: Exception) -> str:
    return " ".join(word for word in str(error).split() if "/" not in word)


def _check_shape(image: Image, reference_volume: bool) -> None:
    """One volume of real numbers, or several where one is asked for, and of a size that can be."""
    if image.dtype.kind not in "iuf":
        raise Refusal("not_3d", f"voxels of type {image.dtype}, not real numbers")
    if len(image.shape) < 3 or min(image.shape) < 1 or (image.volumes != 1 and not reference_volume):
        raise Refusal("not_3d", f"shape {image.shape}")
    if math.prod(image.shape[:3]) > MAX_VOXELS:
        raise Refusal("too_large", f"shape {image.shape}")


def _lowest_b_value(path: Path, volumes: int) -> int:
    """The number of the first volume of lowest b-value by the .bval file beside the image; 0 where there is none that fits."""
    table = Path(sidecar_of(str(path))).with_suffix(".bval")
    try:
        b_values = [float(word) for word in table.read_text().split()] if table.is_file() else []
    except ValueError:
        return 0
    return b_values.index(min(b_values)) if len(b_values) == volumes else 0


def _affine(image: Image) -> NDArray[np.float64]:
    """The affine, where the header gives one that can be inverted."""
    affine = image.affine()
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < SMALLEST_DETERMINANT:
        raise Refusal("no_orientation", "the affine cannot be inverted")
    return affine
