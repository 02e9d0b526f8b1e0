"""Read a volume from NIfTI-1/2, Analyze, MGZ/MGH, MINC-1/2, PAR/REC, AFNI or a DICOM series.

Whatever goes wrong with the input is a `Refusal`. A header is believed only as far as the file can hold what it promises,
so a broken one cannot make us allocate more than a small multiple of the file.
"""

from __future__ import annotations

import gzip
import logging
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.filename_parser import TypesFilenamesError
from nibabel.openers import ImageOpener
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from mri_fm.volume.dicom import convert_series
from mri_fm.volume.refusal import Refusal

MAX_VOXELS = 1024**3
MAX_DEFLATE_RATIO = 1032  # deflate cannot expand further (zlib technical details)
MAX_TRAILER_BYTES = 1 << 20  # what may follow the voxels, e.g. the tags of an MGZ file
GOOD_RAS_OFFSET = 28  # of an int16 in the MGH header
GZIP_SUFFIXES = (".gz", ".mgz")


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


def read_volume(path: Path) -> Volume:
    """Read one image file.

    Args:
        path: the file; for formats of two files, the header (.hdr, .PAR, .HEAD).

    Raises:
        Refusal: not_readable, truncated, not_3d, no_orientation or too_large.
    """
    with refuse_failures():
        if not path.is_file():  # opening a pipe would wait for ever
            raise Refusal("not_readable", "a link to nowhere, a pipe or a device, not a file")
        image = nibabel.load(path)
        shape = _shape_3d(image)
        _check_promise(image, path)
        if path.suffix.lower() in GZIP_SUFFIXES:
            image = _verified_gzip(image, path)
        array = np.asanyarray(image.dataobj).reshape(shape)
        return Volume(array, _affine(image, path), np.dtype(image.get_data_dtype()).name)


def read_series(files: list[Path]) -> Volume:
    """Read one DICOM series through dcm2niix.

    Raises:
        Refusal: as `read_volume`; also not_mr and ambiguous_series.
    """
    with refuse_failures(), convert_series(files) as (nifti, info):
        volume = read_volume(nifti)
        array = np.array(volume.array)  # the memory map ends with the temporary folder
        return Volume(array, volume.affine, volume.dtype, info)


@contextmanager
def refuse_failures() -> Iterator[None]:
    """Turn any failure of a reader into a `Refusal`, and keep its warnings off the terminal."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            logging.getLogger("nibabel").setLevel(logging.CRITICAL)
            yield
    except Refusal:
        raise
    except (EOFError, zlib.error) as error:
        raise Refusal("truncated", f"{type(error).__name__}: {error}") from error
    except FileNotFoundError as error:
        raise Refusal("not_readable", "the file that belongs to this header is missing") from error
    except MemoryError as error:
        raise Refusal("too_large", "the voxels do not fit into memory") from error
    except (ImageFileError, TypesFilenamesError, HeaderDataError) as error:
        raise Refusal("not_readable", f"no known image format ({type(error).__name__})") from error
    except Exception as error:
        cut = "Expected" in str(error) and "bytes" in str(error)  # nibabel's only sign of a short read
        raise Refusal("truncated" if cut else "not_readable", f"{type(error).__name__}: {_without_paths(error)}") from error


def _without_paths(error: Exception) -> str:
    return " ".join(word for word in str(error).split() if "/" not in word)


def _shape_3d(image: Any) -> tuple[int, int, int]:
    """The three axes longer than one that lead, singleton ones behind them dropped."""
    dtype = np.dtype(image.get_data_dtype())
    if dtype.kind not in "iuf":
        raise Refusal("not_3d", f"voxels of type {dtype}, not real numbers")
    shape = tuple(int(n) for n in image.shape)
    if len(shape) < 3 or any(n != 1 for n in shape[3:]) or min(shape) < 1:
        raise Refusal("not_3d", f"shape {shape}")
    if int(np.prod(shape, dtype=object)) > MAX_VOXELS:
        raise Refusal("too_large", f"shape {shape}")
    return shape[0], shape[1], shape[2]


def _data_file(image: Any, path: Path) -> Path:
    holder = image.file_map.get("image") if hasattr(image, "file_map") else None
    return Path(holder.filename) if holder is not None and holder.filename else path


def _check_promise(image: Any, path: Path) -> None:
    """Compare the bytes that the header promises with those that the file can hold."""
    data = _data_file(image, path)
    promised = int(np.prod(image.shape, dtype=object)) * np.dtype(image.get_data_dtype()).itemsize
    deflated = data.suffix.lower() in GZIP_SUFFIXES or isinstance(image, nibabel.Minc2Image)  # HDF5 deflates its chunks
    ratio = MAX_DEFLATE_RATIO if deflated else 1
    if promised > data.stat().st_size * ratio:
        raise Refusal("truncated", f"the header promises {promised} bytes of voxels, the file has {data.stat().st_size}")


def _verified_gzip(image: Any, path: Path) -> Any:
    """Inflate to the end, so that the checksum of the stream is compared, and read from memory."""
    if not hasattr(image, "from_bytes"):
        return image
    promised = int(np.prod(image.shape, dtype=object)) * np.dtype(image.get_data_dtype()).itemsize
    limit = int(getattr(image.dataobj, "offset", 0)) + promised + MAX_TRAILER_BYTES
    with gzip.open(path) as stream:
        content = stream.read(limit)
        if stream.read(1):
            raise Refusal("not_readable", f"more than {MAX_TRAILER_BYTES} bytes follow the voxels")
    return image.from_bytes(content)


def _good_ras_flag(path: Path) -> int:
    """As it is stored: nibabel puts a 1 and an affine of its own in place of a 0."""
    with ImageOpener(path) as stream:
        return int.from_bytes(stream.read(GOOD_RAS_OFFSET + 2)[GOOD_RAS_OFFSET:], "big")


def _affine(image: Any, path: Path) -> NDArray[np.float64]:
    """The affine, where the header gives one that can be inverted."""
    header = image.header
    codes = [int(header[name]) for name in ("qform_code", "sform_code") if _has(header, name)]
    if codes and not any(codes):
        raise Refusal("no_orientation", "qform_code and sform_code are both 0")
    if isinstance(image, nibabel.MGHImage) and _good_ras_flag(path) != 1:
        raise Refusal("no_orientation", "goodRASFlag is not set")
    if isinstance(image, nibabel.AnalyzeImage) and not codes:
        raise Refusal("no_orientation", "Analyze headers do not tell left from right")
    affine = np.array(image.affine, np.float64)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise Refusal("no_orientation", "the affine cannot be inverted")
    return affine


def _has(header: Any, name: str) -> bool:
    try:
        return name in header.keys()  # noqa: SIM118 - headers iterate over values
    except AttributeError:
        return False
