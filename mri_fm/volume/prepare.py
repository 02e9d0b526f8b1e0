"""From the files of one scan to what the corpus stores of it: the one path that the build and an exported encoder share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mri_fm.volume.brain import brain_mask
from mri_fm.volume.canonical import Canonical, Crop, canonicalise, crop
from mri_fm.volume.processing import Processing
from mri_fm.volume.read import Volume, read_series, read_volume, refuse_failures

AS_IT_IS = Processing()


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


def prepare_files(
    files: Sequence[Path],
    *,
    series: bool,
    max_spacing: float,
    reference_volume: bool = False,
    processing: Processing = AS_IT_IS,
    level: int = 0,
) -> Prepared:
    """Read one scan.

    Args:
        files: one image file, or those of a DICOM series.
        series: whether to read them as DICOM.
        max_spacing: mm between voxels at most.
        reference_volume: take one volume of a time or diffusion series, rather than refuse it.
        processing: what is done to it.
        level: of the crop that an earlier preparation gave; what that found out about the content is then not found out again.

    Raises:
        Refusal: whatever is wrong with it.
    """
    with refuse_failures():
        read = partial(read_series, list(files)) if series else partial(read_volume, files[0])
        volume, image = read(reference_volume=reference_volume), None if series else files[0]
        return prepare_volume(volume, max_spacing=max_spacing, processing=processing, image=image, level=level)


def prepare_volume(
    volume: Volume, *, max_spacing: float, processing: Processing = AS_IT_IS, image: Path | None = None, level: int = 0
) -> Prepared:
    """As `prepare_files`, from a volume in memory; `image` is its file, beside which a mask may lie."""
    with refuse_failures():
        process = processing.apply if processing.changes else None
        canonical = canonicalise(volume, max_spacing=max_spacing, process=process, known=level > 0)
        mask = brain_mask(processing.brain, canonical.voxels, canonical.affine, image)
        i, j, k = volume.array.shape
        return Prepared(canonical, crop(canonical, mask, level), (i, j, k), volume.affine, volume.info)
