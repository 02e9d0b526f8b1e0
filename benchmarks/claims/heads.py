"""Real heads for the experiments: those that installed packages ship, or the T1 scans of a BIDS folder.

Axes: Z/Y/X voxels of RAS+ (depth, height, width).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mri_fm.volume.foreground import foreground
from mri_fm.volume.intensity import quantise
from mri_fm.volume.orient import to_ras
from mri_fm.volume.read import read_volume
from preprocessing.sample_data import find_colin27, find_heads

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Head:
    """A head on a cube. `x_ZYX` is z-scored over its foreground and at air's value outside; `inside_ZYX` is the foreground."""

    name: str
    x_ZYX: Array
    inside_ZYX: Mask


def load_heads(bids: Path | None, *, side: int, spacing: float, most: int) -> list[Head]:
    """At most `most` heads, on grids of `side`³ voxels of `spacing` mm about the middle of the head."""
    if bids is None:
        files = {files.name: files.t1 for files in find_heads(find_colin27())}
    else:
        files = {path.name.split("_")[0]: path for path in sorted(bids.rglob("*_T1w.nii*"))}
    if not files:
        raise SystemExit(f"no *_T1w.nii.gz under {bids}")
    return [load_head(name, path, side=side, spacing=spacing) for name, path in list(files.items())[:most]]


def load_head(name: str, path: Path, *, side: int, spacing: float) -> Head:
    """One head, by the reading, orientation and foreground of the corpus build."""
    scan = to_ras(read_volume(path))
    found = foreground(quantise(scan.array)[0], scan.spacing)
    box = tuple(slice(a, b) for a, b in zip(found.start, found.stop, strict=True))
    factors = np.array(scan.spacing) / spacing
    x_ZYX = ndimage.zoom(_blurred(np.asarray(scan.array, np.float64)[box], factors), factors, order=1)
    inside_ZYX = ndimage.zoom(found.mask.astype(np.float32), factors, order=1) > 0.5
    mean, std, air = x_ZYX[inside_ZYX].mean(), x_ZYX[inside_ZYX].std(), x_ZYX.min()
    cube = _cut(np.where(inside_ZYX, x_ZYX, air), side, air)
    return Head(name, (cube - mean) / std, _cut(inside_ZYX, side, False))


def _blurred(x_ZYX: Array, factors: Array) -> Array:
    """Without what a coarser grid cannot hold."""
    return ndimage.gaussian_filter(x_ZYX, np.maximum(0.0, 0.5 / factors - 0.5))


def _cut(x_ZYX: NDArray, side: int, fill: float) -> NDArray:
    """The cube about the middle, padded where the volume is smaller."""
    missing = [max(0, side - n) for n in x_ZYX.shape]
    padded = np.pad(x_ZYX, [(m // 2, m - m // 2) for m in missing], constant_values=fill)
    starts = [(n - side) // 2 for n in padded.shape]
    return padded[tuple(slice(start, start + side) for start in starts)]
