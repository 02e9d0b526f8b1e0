"""Heads of different people for replicas of data sets: the MNI152 template, bent smoothly into a shape of each one's own."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tests.corpora import template

SPACING_MM = 5.0
BEND_MM = 9.0  # standard deviation of the displacements
KNOTS = 5
CONTRASTS = ("T1", "T2", "FLAIR", "OTHER")


@cache
def _small() -> NDArray[np.float32]:
    """The template at `SPACING_MM`, 0…1."""
    array = np.asarray(template().dataobj, np.float32)
    small = ndimage.zoom(ndimage.uniform_filter(array, int(SPACING_MM)), 1 / SPACING_MM, order=1)
    return (small / small.max()).astype(np.float32)


def head(person: int, scan: int = 0, contrast: str = "T1") -> nibabel.Nifti1Image:
    """A scan of a person: the anatomy depends on `person` alone, bias and noise on both, brightness on `contrast`."""
    anatomy = _bent(person)
    brain = anatomy > 0.08
    looks = {"T1": anatomy, "T2": 1.2 - anatomy, "FLAIR": 0.5 + 0.5 * np.sin(5 * anatomy)}.get(contrast, anatomy**2)
    rng = np.random.default_rng([person, scan, CONTRASTS.index(contrast)])
    bias = ndimage.zoom(rng.uniform(0.85, 1.15, (3, 3, 3)), [n / 3 for n in anatomy.shape], order=1)
    noisy = 600 * looks * bias[tuple(map(slice, anatomy.shape))] + rng.normal(0, 6, anatomy.shape)
    voxels = np.where(brain, noisy.clip(5, 1500), 0).astype(np.int16)
    affine = np.diag([SPACING_MM] * 3 + [1])
    affine[:3, 3] = (-95, -130, -75)
    return nibabel.Nifti1Image(voxels, affine)


@lru_cache(64)
def _bent(person: int) -> NDArray[np.float32]:
    anatomy = _small()
    rng = np.random.default_rng([person, 7])
    knots = rng.normal(0, BEND_MM / SPACING_MM, (3, KNOTS, KNOTS, KNOTS))
    factors = [n / KNOTS for n in anatomy.shape]
    shifts = np.stack([ndimage.zoom(k, factors, order=1) for k in knots])
    grid = np.indices(anatomy.shape, dtype=np.float32)
    return ndimage.map_coordinates(anatomy, grid + shifts[:, : grid.shape[1], : grid.shape[2], : grid.shape[3]], order=1)


def write(root: Path, path: str, image: nibabel.Nifti1Image) -> None:
    """Save an image below a root."""
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, root / path)


def write_text(root: Path, path: str, text: str) -> None:
    """Save text below a root."""
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def changed(image: nibabel.Nifti1Image, change: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> nibabel.Nifti1Image:
    """An image with other voxels."""
    return nibabel.Nifti1Image(change(np.asarray(image.dataobj, np.float64)).astype(np.float32), image.affine)
