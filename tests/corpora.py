"""Small real corpora: pieces of nilearn's MNI152 template, resampled, laid out as raw files and built by the real build."""

from __future__ import annotations

import csv
from pathlib import Path

import nibabel
import nilearn
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from preprocessing.build import Spec, build

TEMPLATE = "datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
SPACINGS = [(5, 5, 5), (4, 4, 4), (6, 6, 6), (5, 5, 5), (4, 4, 6), (6, 5, 4), (5, 6, 5), (4, 5, 5)]  # mm along x, y, z
SPEC = Spec(val_fraction=0.3, shard_bytes=400_000)


def template() -> nibabel.Nifti1Image:
    """MNI152 T1, 1 mm, skull-stripped, RAS."""
    return nibabel.load(Path(nilearn.__file__).parent / TEMPLATE)


def resampled(spacing: tuple[float, float, float], *, seed: int = 0, t2: bool = False) -> nibabel.Nifti1Image:
    """The template on another grid with a smooth bias of its own, so that no two seeds give the same voxels.

    Args:
        spacing: millimetres along x, y, z.
        seed: of the bias.
        t2: invert the contrast inside the brain.
    """
    image = template()
    array = np.asarray(image.dataobj, np.float32)
    if t2:
        array = np.where(array > 0, 280 - array, 0)
    small = ndimage.zoom(array, [1 / s for s in spacing], order=1)
    brain = np.where(small > 20, small * _bias(small.shape, seed), 0)
    affine = image.affine @ np.diag([n / m for n, m in zip(array.shape, small.shape, strict=True)] + [1])
    affine[:3, :3] = np.diag(spacing)
    return nibabel.Nifti1Image(brain.astype(np.int16), affine)


def flipped(image: nibabel.Nifti1Image, codes: str) -> nibabel.Nifti1Image:
    """The same scan stored along other axes, for instance "LAS"."""
    target = nibabel.orientations.axcodes2ornt(codes)
    return image.as_reoriented(nibabel.orientations.ornt_transform(nibabel.io_orientation(image.affine), target))


def small_raw(folder: Path) -> Path:
    """Eight scans of subjects s0…s7 (two contrasts, a label `group`), one of them stored as LAS and one as PSR."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, spacing in enumerate(SPACINGS):
        t2 = number % 2 == 1
        image = resampled(spacing, seed=number, t2=t2)
        if number in (2, 5):
            image = flipped(image, "LAS" if number == 2 else "PSR")
        name = f"scan{number}.nii.gz"
        nibabel.save(image, folder / name)
        rows.append([name, "small", f"s{number}", "T2" if t2 else "T1", "ab"[number // 2 % 2]])
    write_labels(folder, ["path", "dataset", "subject", "contrast", "group"], rows)
    return folder


def small_corpus(folder: Path) -> Path:
    """Build the corpus of `small_raw`; raw files lie in `folder`/raw, the corpus in the folder that is returned."""
    build(small_raw(folder / "raw"), folder / "corpus", SPEC)
    return folder / "corpus"


def write_labels(folder: Path, columns: list[str], rows: list[list[str]]) -> None:
    """Write labels.csv."""
    with (folder / "labels.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([columns, *rows])


def _bias(shape: tuple[int, ...], seed: int) -> NDArray[np.float64]:
    coarse = np.random.default_rng(seed).uniform(0.8, 1.2, (3, 3, 3))
    return ndimage.zoom(coarse, [n / 3 for n in shape], order=1)[tuple(map(slice, shape))]
