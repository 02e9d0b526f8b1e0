"""From the files of one scan to what the corpus stores of it: the one path that the build and an exported encoder share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mri_fm.volume.canonical import Canonical, Crop, canonicalise, crop
from mri_fm.volume.read import Volume, read_series, read_volume, refuse_failures


@dataclass(frozen=True)
class Prepared:
    """A scan in canonical form and its crop.

    Attributes:
        canonical: the whole volume on its RAS+ grid.
        crop: the brain box.
        shape: voxels of the stored array along its own axes.
        affine: float64 (4, 4) of the stored array.
        info: what a DICOM header said that helps to tell the contrast.
    """

    canonical: Canonical
    crop: Crop
    shape: tuple[int, int, int]
    affine: NDArray[np.float64]
    info: dict[str, str]


def prepare_files(files: Sequence[Path], *, series: bool, max_spacing: float, reference_volume: bool = False) -> Prepared:
    """Read one scan.

    Args:
        files: one image file, or those of a DICOM series.
        series: whether to read them as DICOM.
        max_spacing: mm between voxels at most.
        reference_volume: take one volume of a time or diffusion series, rather than refuse it.

    Raises:
        Refusal: whatever is wrong with it.
    """
    with refuse_failures():
        read = partial(read_series, list(files)) if series else partial(read_volume, files[0])
        return prepare_volume(read(reference_volume=reference_volume), max_spacing=max_spacing)


def prepare_volume(volume: Volume, *, max_spacing: float) -> Prepared:
    """As `prepare_files`, from a volume in memory."""
    with refuse_failures():
        canonical = canonicalise(volume, max_spacing=max_spacing)
        i, j, k = volume.array.shape
        return Prepared(canonical, crop(canonical), (i, j, k), volume.affine, volume.info)
