"""Variants of real brains: a deformed anatomy, imaged with another contrast, slice thickness, bias field and noise.

A rendering is a function of (seed, number, base anatomies). It carries one label that is not visible in how it was
imaged: a local atrophy, the enlargement of the lateral ventricles at the cost of the tissue around them.
Axis suffixes: C channel, X Y Z voxel axes of the output, I J K spline control points, 3 coordinates x, y, z.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import nibabel as nib
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.interpolate import BSpline
from scipy.spatial.transform import Rotation
from torch.nn.functional import grid_sample

from mri_fm.rng import Stream, generator
from preprocessing.rendering_anatomy import Anatomy, Array

SUFFIX = {"T1": "T1w", "T2": "T2w", "FLAIR": "FLAIR"}

# Signal of CSF, grey and white matter (1 is white matter in T1), then the gain of the texture and of what is not brain.
# The signals follow the order of the tissues at 1.5-3 T (Bushberg et al., The Essential Physics of Medical Imaging, ch. 12).
WEIGHTS = {"T2": (1.0, 0.56, 0.40, -0.35, 0.45), "FLAIR": (0.14, 0.70, 0.54, -0.25, 0.45)}
WEIGHT_JITTER = 0.06

IN_PLANE_MM = (1.8, 2.2)
THICKNESS_MM = (1.0, 2.0, 3.0, 4.0, 5.0)
LABEL_BLOCK = 16
SUB_SLICE_MM = 1.5  # a thick slice is the mean of sub-slices no thicker than this

CONTROL_POINTS = 6
DISPLACEMENT_MM = 3.5  # standard deviation of the control points
ROTATION_DEG, SHIFT_MM, LOG_SCALE = 4.0, 3.0, 0.04  # each uniform in ± this
BIAS_POINTS, BIAS_STD = 4, 0.18
NOISE = (0.01, 0.04)  # standard deviation in each of the two Rician channels, relative to white matter
AIR = 0.04  # a stripped brain keeps exact zeros where its clean signal is below this
WHITE_MATTER_UNITS = (200.0, 1200.0)  # scanners have no absolute unit

ATROPHY_RADIUS_MM = 45.0
ATROPHY_STRENGTH = 0.65


@dataclass(frozen=True)
class Rendering:
    """What is decided before a voxel is drawn."""

    number: int
    base: str
    contrast: str  # T1, T2 or FLAIR
    atrophy: int  # 0 or 1
    thickness_mm: float

    @property
    def id(self) -> str:
        """For instance r0007."""
        return f"r{self.number:04d}"

    @property
    def file_name(self) -> str:
        """For instance variant-0007_base-mni152_T2w.nii.gz."""
        return f"variant-{self.number:04d}_base-{self.base}_{SUFFIX[self.contrast]}.nii.gz"


def plan_renderings(seed: int, count: int, bases: Mapping[str, Sequence[str]]) -> list[Rendering]:
    """Renderings 0 … count−1 from `bases` (name → contrasts), balanced by design.

    Numbers run through all (base, contrast) in random order, block after block. The label has blocks of its own, half of
    each with atrophy, drawn without a look at base, contrast or thickness. (Were it balanced within each of them, the other
    volumes that look alike would give away the label of one that is held out.)
    """
    cells = [(base, contrast) for base, contrasts in bases.items() for contrast in contrasts]
    order = _blocks(seed, 0, len(cells), count)
    labels = _blocks(seed, 1, LABEL_BLOCK, count)
    thickness = _blocks(seed, 2, len(THICKNESS_MM), count)
    drawn = zip(order, labels, thickness, strict=True)
    return [
        Rendering(number, base=cells[cell][0], contrast=cells[cell][1], atrophy=label % 2, thickness_mm=THICKNESS_MM[slab])
        for number, (cell, label, slab) in enumerate(drawn)
    ]


def _blocks(seed: int, sequence: int, size: int, count: int) -> list[int]:
    """Random permutations of range(size), one after another, cut to `count`; sequences are independent of each other."""
    draws = [
        generator(seed, Stream.RENDER, -1 - 3 * block - sequence).permutation(size) for block in range(math.ceil(count / size))
    ]
    return [int(value) for value in itertools.chain(*draws)][:count]


def render(
    anatomy: Anatomy, rendering: Rendering, seed: int, in_plane_mm: tuple[float, float] = IN_PLANE_MM
) -> nib.Nifti1Image:
    """Draw one variant as an int16 NIfTI image.

    Args:
        anatomy: the head named by `rendering.base`.
        rendering: an entry of `plan_renderings`.
        seed: with `rendering.number`, decides deformation, bias field, noise and scale. The atrophy changes none of them.
        in_plane_mm: range of the voxel size in the plane of the slices.
    """
    rng = generator(seed, Stream.RENDER, rendering.number)
    weights_C = _contrast_weights(rendering.contrast, anatomy, rng)
    in_plane = rng.uniform(*in_plane_mm)
    spacing = np.array([in_plane, in_plane, rendering.thickness_mm])
    parts = int(np.ceil(rendering.thickness_mm / SUB_SLICE_MM))
    extent = anatomy.spacing * np.array(anatomy.channels_CXYZ.shape[1:])
    shape = np.floor(extent / spacing).astype(int)
    points_XYZ3 = _deform(_grid(shape, spacing, parts), extent, rng)
    if rendering.atrophy:
        points_XYZ3 = _enlarge_ventricles(points_XYZ3, anatomy.site_3 * anatomy.spacing)
    contrast_XYZ = np.tensordot(weights_C, anatomy.channels_CXYZ, 1).astype(np.float32)
    signal_XYZ = _sample(contrast_XYZ, points_XYZ3, extent)
    signal_XYZ = signal_XYZ.reshape(*shape, parts).mean(-1)
    voxels_XYZ = _acquire(signal_XYZ, anatomy.stripped, rng)
    image = nib.Nifti1Image(voxels_XYZ, _output_affine(anatomy, spacing))
    image.header["descrip"] = f"rendered variant of {anatomy.name}".encode()
    image.header.set_xyzt_units("mm")
    return image


def _contrast_weights(contrast: str, anatomy: Anatomy, rng: np.random.Generator) -> Array:
    weights = np.array(WEIGHTS.get(contrast, (*anatomy.tissue_t1, 1.0, 1.0)))
    weights[:3] *= 1 + rng.uniform(-WEIGHT_JITTER, WEIGHT_JITTER, size=3)
    return weights.astype(np.float32)


def _grid(shape: NDArray[np.int_], spacing: NDArray[np.float64], parts: int) -> list[Array]:
    """Positions in mm along x, y and z; z has `parts` sub-slices for each slice."""
    fine = spacing / [1, 1, parts]
    return [((np.arange(n) + 0.5) * step).astype(np.float32) for n, step in zip(shape * [1, 1, parts], fine, strict=True)]


def _deform(axes: list[Array], extent: NDArray[np.float64], rng: np.random.Generator) -> Array:
    """Where each output point lies in the base, mm (X, Y, Z, 3): a random affine about the centre plus a cubic spline."""
    turn = Rotation.from_euler("xyz", rng.uniform(-ROTATION_DEG, ROTATION_DEG, 3), degrees=True).as_matrix()
    matrix = (turn * np.exp(rng.uniform(-LOG_SCALE, LOG_SCALE, 3))).astype(np.float32)
    offset = (extent / 2 + rng.uniform(-SHIFT_MM, SHIFT_MM, 3)).astype(np.float32)
    centred_3XYZ = np.meshgrid(*[axis - side / 2 for axis, side in zip(axes, extent, strict=True)], indexing="ij")
    control_3IJK = rng.normal(scale=DISPLACEMENT_MM, size=(3, *[CONTROL_POINTS] * 3))
    shape = [len(axis) for axis in axes]
    points_XYZ3 = np.empty((*shape, 3), dtype=np.float32)
    for row in range(3):
        points_XYZ3[..., row] = sum(matrix[row, i] * centred_3XYZ[i] for i in range(3)) + offset[row]
        points_XYZ3[..., row] += _spline(control_3IJK[row], shape)
    return points_XYZ3


def _spline(control_IJK: NDArray[np.float64], shape: Sequence[int]) -> Array:
    """The uniform cubic B-spline of the control points, on a grid that spans them."""
    field = control_IJK.astype(np.float32)
    for axis, n in enumerate(shape):
        field = np.moveaxis(np.tensordot(_basis(n, control_IJK.shape[axis]), field, (1, axis)), 0, axis)
    return field


def _basis(n: int, points: int) -> Array:
    """(n, points) values of the cubic B-spline basis at n even steps."""
    knots = np.arange(-3, points + 1, dtype=np.float64)
    steps = (np.arange(n) + 0.5) / n * (points - 3)
    return BSpline.design_matrix(steps, knots, 3).toarray().astype(np.float32)


def _enlarge_ventricles(points_XYZ3: Array, site_3: NDArray[np.float64]) -> Array:
    """Magnify what lies at the site and press together what lies around it; nothing moves beyond the radius.

    The pull-back r → r (1 − a (1 − s)³), s = r²/R², has the radial derivative 1 − a (1 − s)² (1 − 7s) ≥ 1 − a > 0: no folds.
    """
    away_XYZ3 = points_XYZ3 - site_3.astype(np.float32)
    bump_XYZ = np.clip(1 - (away_XYZ3**2).sum(-1) / ATROPHY_RADIUS_MM**2, 0, None) ** 3
    return points_XYZ3 - ATROPHY_STRENGTH * bump_XYZ[..., None] * away_XYZ3


def _sample(image_XYZ: Array, points_XYZ3: Array, extent: NDArray[np.float64]) -> Array:
    """Trilinear values at points in mm from the corner of the first voxel; beyond the extent is air, 0."""
    scale = (2 / extent).astype(np.float32)
    grid = torch.from_numpy(points_XYZ3 * scale - 1).flip(-1)
    return np.asarray(grid_sample(torch.from_numpy(image_XYZ)[None, None], grid[None], align_corners=False)[0, 0])


def _acquire(signal_XYZ: Array, stripped: bool, rng: np.random.Generator) -> NDArray[np.int16]:
    """Bias field, Rician noise (Gudbjartsson and Patz, MRM 1995) and a scanner's scale."""
    bias_XYZ = np.exp(_spline(rng.normal(scale=BIAS_STD, size=[BIAS_POINTS] * 3), signal_XYZ.shape))
    sigma = np.float32(rng.uniform(*NOISE))
    units = np.float32(rng.uniform(*WHITE_MATTER_UNITS))
    real_XYZ = signal_XYZ * bias_XYZ + sigma * rng.standard_normal(signal_XYZ.shape, dtype=np.float32)
    imaginary_XYZ = sigma * rng.standard_normal(signal_XYZ.shape, dtype=np.float32)
    magnitude_XYZ = np.hypot(real_XYZ, imaginary_XYZ)
    if stripped:
        magnitude_XYZ *= signal_XYZ > AIR
    return np.rint(magnitude_XYZ * units).clip(0, np.iinfo(np.int16).max).astype(np.int16)


def _output_affine(anatomy: Anatomy, spacing: NDArray[np.float64]) -> NDArray[np.float64]:
    """The base's frame on the new grid; both grids begin at the same corner."""
    ratio = spacing / anatomy.spacing
    to_base = np.diag([*ratio, 1.0])
    to_base[:3, 3] = ratio / 2 - 0.5
    return np.asarray(anatomy.affine @ to_base)
