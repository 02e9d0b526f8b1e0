"""The archive: one OME-Zarr 0.5 image per volume, for people and viewers; training reads the shards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, BloscShuffle

from mri_fm.volume.canonical import Canonical

OME_VERSION = "0.5"
AXES = ("z", "y", "x")
CHUNK = 64
MAX_SHARD = 512
ROOT = b'{\n  "attributes": {},\n  "zarr_format": 3,\n  "node_type": "group"\n}'  # zarr.json of the group around the images
SMALLEST_LEVEL = 64  # the pyramid ends where no axis is longer
MIN_LEVELS = 2
ISOTROPY = 1.5  # axes whose spacing is within this factor of the finest are halved together


def write_image(folder: Path, canonical: Canonical) -> None:
    """Write a multiscale image into a new folder, named as its key.

    Axes are z, y, x towards superior, anterior, right; the scale is the native spacing in millimetres. Intensities are the
    canonical int16, background kept. `attributes.mri_fm` holds the exact affine ((x, y, z, 1) → RAS+ mm), and the scale and
    offset back to source intensities.
    """
    group = zarr.create_group(folder, zarr_format=3)
    datasets: list[Any] = []
    for level, (voxels, factors) in enumerate(pyramid(canonical.voxels, canonical.spacing)):
        _write_level(group, str(level), voxels)
        datasets.append(_dataset(str(level), canonical.spacing, factors))
    axes: list[Any] = [{"name": name, "type": "space", "unit": "millimeter"} for name in AXES]
    multiscale: dict[str, Any] = {"name": folder.name, "axes": axes, "datasets": datasets, "type": "mean"}
    group.attrs["ome"] = {"version": OME_VERSION, "multiscales": [multiscale]}
    group.attrs["mri_fm"] = {
        "affine": canonical.affine.tolist(),
        "scale": canonical.scale,
        "offset": canonical.offset,
        "source_orientation": canonical.orientation,
    }


def pyramid(voxels: NDArray[np.int16], spacing: tuple[float, float, float]) -> list[tuple[NDArray[np.int16], list[int]]]:
    """Halve a volume by means of 2×2×2 voxels until it is small; thick slices are kept until the others are as coarse.

    Returns:
        (voxels, factors along z, y, x) of each level, the full one first.
    """
    levels = [(voxels, [1, 1, 1])]
    while len(levels) < MIN_LEVELS or max(levels[-1][0].shape) > SMALLEST_LEVEL:
        finer, factors = levels[-1]
        current = [s * f for s, f in zip(spacing, factors, strict=True)]
        halved = [a for a in range(3) if current[a] <= ISOTROPY * min(current) and finer.shape[a] > 1]
        if not halved:
            break
        levels.append((_halve(finer, halved), [f * (2 if a in halved else 1) for a, f in enumerate(factors)]))
    return levels


def _halve(voxels: NDArray[np.int16], axes: list[int]) -> NDArray[np.int16]:
    """Means of neighbours along `axes`, halves to the even number; the last voxel of an odd axis counts twice."""
    sums: NDArray[Any] = voxels.view(np.uint16)  # which holds the sum of two
    for number, axis in enumerate(axes):
        planes = np.moveaxis(sums, axis, 0)
        first, second = planes[0::2], planes[1::2]
        total = np.empty(first.shape, np.uint16 if number == 0 else np.uint32)
        np.add(first[: len(second)], second, out=total[: len(second)], dtype=total.dtype)
        if len(first) > len(second):
            np.multiply(first[-1], 2, out=total[-1], dtype=total.dtype)
        sums = np.moveaxis(total, 0, axis)
    shift = len(axes)
    even = (sums >> shift) & 1
    return ((sums.astype(np.uint32, copy=False) + even + (2**shift // 2 - 1)) >> shift).astype(np.int16)


def _write_level(group: zarr.Group, name: str, voxels: NDArray[np.int16]) -> None:
    chunks = tuple(min(CHUNK, n) for n in voxels.shape)
    shards = tuple(min(-(-n // c), max(1, MAX_SHARD // c)) * c for n, c in zip(voxels.shape, chunks, strict=True))
    codec = BloscCodec(cname="zstd", clevel=5, shuffle=BloscShuffle.shuffle)
    array = group.create_array(
        name, shape=voxels.shape, dtype="int16", chunks=chunks, shards=shards, compressors=codec, dimension_names=AXES
    )
    array[:] = voxels


def _dataset(path: str, spacing: tuple[float, float, float], factors: list[int]) -> dict[str, Any]:
    """A level's scale, and the half voxels by which the centres of coarser voxels are displaced."""
    scale = [s * f for s, f in zip(spacing, factors, strict=True)]
    transforms: list[dict[str, Any]] = [{"type": "scale", "scale": scale}]
    if factors != [1, 1, 1]:
        shift = [s * (f - 1) / 2 for s, f in zip(spacing, factors, strict=True)]
        transforms.append({"type": "translation", "translation": shift})
    return {"path": path, "coordinateTransformations": transforms}
