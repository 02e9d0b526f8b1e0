"""Real brains as tissue channels, the anatomy that `preprocessing.rendering` deforms and re-images.

A channel volume is linear in the signal: every contrast is one weighted sum of the same five channels.
Axis suffixes: C channel, X Y Z voxel axes of the file (NIfTI order), 3 the voxel coordinates x, y, z.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes
from numpy.typing import NDArray
from scipy import ndimage
from scipy.cluster.vq import kmeans2

Array = NDArray[np.float32]

VENTRICLES = {"mni152": (98, 120, 91), "colin27": (90, 113, 90), "groupmean": (88, 117, 146)}
"""For each head, the voxel between the bodies of its lateral ventricles."""

CHANNELS = ("csf", "gm", "wm", "texture", "outside")
CONTRASTS = ("T1", "T2", "FLAIR")
MARGIN_MM = 8.0
BRIGHT_PERCENTILE = 95
EDGE_VOXELS = 1.5  # standard deviation of the brain's soft edge


@dataclass(frozen=True)
class Anatomy:
    """One head. `channels_CXYZ` (see `CHANNELS`) are float32 in units of the mean white matter signal of the T1."""

    name: str
    channels_CXYZ: Array
    tissue_t1: tuple[float, float, float]  # mean T1 signal of CSF, grey and white matter
    affine: NDArray[np.float64]  # voxel → RAS mm
    site_3: NDArray[np.float64]  # centre of the atrophy, in voxels from the corner of the first one
    stripped: bool  # the file holds the brain alone, on exact zeros

    @property
    def spacing(self) -> NDArray[np.float64]:
        """mm along x, y, z."""
        return np.asarray(voxel_sizes(self.affine))


class AnatomyFiles(NamedTuple):
    """The files a head is made from; see `load_anatomy`."""

    name: str
    t1: Path
    maps: tuple[Path, Path] | None = None  # grey and white matter, 0 … 255
    brain: Path | None = None  # anything positive inside the brain

    @property
    def contrasts(self) -> tuple[str, ...]:
        """What can be rendered: without tissues, the T1 that it is."""
        return CONTRASTS if self.maps or self.brain else CONTRASTS[:1]


def load_anatomy(files: AnatomyFiles) -> Anatomy:
    """Read a T1 and split its brain into tissues.

    Tissue maps are taken where the package ships them. Elsewhere a brain mask is split by a three-class k-means on its own
    intensities, with linear partial volume between the centres. A T1 with neither stays in one piece, and stays a T1.

    Returns:
        The head cropped to its box plus 8 mm.
    """
    image = nib.load(files.t1)
    t1_XYZ = np.asarray(image.dataobj, dtype=np.float32)
    tissues = _tissues(files, t1_XYZ)
    channels_CXYZ, tissue_t1 = _split(t1_XYZ, *tissues) if tissues else _whole(t1_XYZ)
    box = _head_box(channels_CXYZ, voxel_sizes(image.affine))
    return Anatomy(
        name=files.name,
        channels_CXYZ=np.ascontiguousarray(channels_CXYZ[:, *box]),
        tissue_t1=tissue_t1,
        affine=np.asarray(image.slicer[box].affine),
        site_3=np.array(VENTRICLES[files.name]) + 0.5 - [side.start for side in box],
        stripped=not channels_CXYZ[-1].any(),
    )


def _tissues(files: AnatomyFiles, t1_XYZ: Array) -> tuple[Array, Array] | None:
    """Memberships (3, X, Y, Z) of CSF, grey and white matter, and the share of brain in each voxel; both 0 … 1."""
    if files.maps:
        return _tissues_from_maps(*map(_read, files.maps)), (t1_XYZ > 0).astype(np.float32)
    if files.brain:
        brain_XYZ = ndimage.gaussian_filter((_read(files.brain) > 0).astype(np.float32), EDGE_VOXELS)
        return _tissues_from_intensity(t1_XYZ, brain_XYZ), brain_XYZ
    return None


def _split(t1_XYZ: Array, tissues_CXYZ: Array, brain_XYZ: Array) -> tuple[Array, tuple[float, float, float]]:
    """The channels of a T1 whose tissues are known, and the T1 signal of CSF, grey and white matter."""
    (csf, gm, white), texture_XYZ = _explain(t1_XYZ, tissues_CXYZ, brain_XYZ > 0.99)
    inside_CXYZ = np.concatenate([tissues_CXYZ, texture_XYZ[None] / white]) * brain_XYZ
    return np.concatenate([inside_CXYZ, (t1_XYZ * (1 - brain_XYZ) / white)[None]]), (csf / white, gm / white, 1.0)


def _whole(t1_XYZ: Array) -> tuple[Array, tuple[float, float, float]]:
    """All of the T1 in the last channel, in units of its bright tissue."""
    channels_CXYZ = np.zeros((len(CHANNELS), *t1_XYZ.shape), dtype=np.float32)
    channels_CXYZ[-1] = t1_XYZ / np.percentile(t1_XYZ, BRIGHT_PERCENTILE)
    return channels_CXYZ, (0.0, 0.0, 1.0)


def _read(path: Path) -> Array:
    return np.asarray(nib.load(path).dataobj, dtype=np.float32)


def _tissues_from_maps(gm_XYZ: Array, wm_XYZ: Array) -> Array:
    csf_XYZ = np.clip(255 - gm_XYZ - wm_XYZ, 0, None)
    tissues_CXYZ: Array = np.stack([csf_XYZ, gm_XYZ, wm_XYZ])
    return tissues_CXYZ / np.float32(255)


def _tissues_from_intensity(t1_XYZ: Array, brain_XYZ: Array) -> Array:
    """Memberships (3, X, Y, Z) by interpolation between the centres of three intensity classes."""
    inside = t1_XYZ[brain_XYZ > 0.99]
    start = np.percentile(inside, [5, 40, 80])
    centres = np.sort(kmeans2(inside[::29, None], start[:, None], minit="matrix", iter=30)[0][:, 0])
    return np.stack([np.interp(t1_XYZ, centres, ramp).astype(np.float32) for ramp in np.eye(3)])


def _explain(t1_XYZ: Array, tissues_CXYZ: Array, inside_XYZ: NDArray[np.bool_]) -> tuple[list[float], Array]:
    """Least-squares tissue signals of the T1, and what they leave unexplained."""
    design = tissues_CXYZ[:, inside_XYZ].T
    signal_C = np.linalg.lstsq(design[::7], t1_XYZ[inside_XYZ][::7])[0].astype(np.float32)
    return signal_C.tolist(), t1_XYZ - np.tensordot(signal_C, tissues_CXYZ, 1)


def _head_box(channels_CXYZ: Array, spacing: NDArray[np.float64]) -> tuple[slice, slice, slice]:
    head_XYZ = (channels_CXYZ[:3].sum(0) > 0) | (channels_CXYZ[-1] > 0.15)
    margin = np.ceil(MARGIN_MM / spacing).astype(int)
    found = ndimage.find_objects(head_XYZ.astype(np.uint8))[0]
    sides = [slice(max(s.start - m, 0), min(s.stop + m, n)) for s, m, n in zip(found, margin, head_XYZ.shape, strict=True)]
    return sides[0], sides[1], sides[2]
