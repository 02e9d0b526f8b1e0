"""Tokens back to where they lie in a scan.

Token (i, j, k) covers the input's voxels [i·p, (i + 1)·p) along depth, and so on; an input voxel's centre lies at
`begin + (voxel + 0.5)·step − 0.5` in voxels of the crop (`mri_fm.data.geometry`), and the crop's affine leads from there to
millimetres.

Axes: D, H, W tokens along depth, height, width; Z, Y, X the same along the anatomical axes; N = D·H·W, K values of a token.
"""

from __future__ import annotations

import nibabel
import numpy as np
from numpy.typing import NDArray

from mri_fm.export.spec import InputScan
from mri_fm.models.patches import Size3

Values = NDArray[np.float32]


def token_grid_map(scan: InputScan, values_NK: Values, grid: Size3) -> nibabel.Nifti1Image:
    """One voxel for each token, float32 (X, Y, Z, K); oblique where the scan is."""
    values_ZYXK = _anatomical(scan, values_NK, grid)
    begin, step = _token_places(scan, values_ZYXK.shape[:3])
    to_crop = np.diag([*step[::-1], 1.0])
    to_crop[:3, 3] = (begin + step / 2 - 0.5)[::-1]
    affine = scan.prepared.crop.affine @ to_crop
    return nibabel.Nifti1Image(values_ZYXK.transpose(2, 1, 0, 3), affine)


def scan_map(scan: InputScan, values_NK: Values, grid: Size3) -> nibabel.Nifti1Image:
    """One voxel for each of the scan's as it is stored, float32 (I, J, K, values); 0 where no token looks."""
    values_ZYXK = _anatomical(scan, values_NK, grid)
    begin, step = _token_places(scan, values_ZYXK.shape[:3])
    stored_to_crop = np.linalg.inv(scan.prepared.crop.affine) @ scan.prepared.affine
    index, inside = [], np.ones(scan.prepared.shape, dtype=bool)
    stored_IJK = np.meshgrid(*map(np.arange, scan.prepared.shape), indexing="ij", sparse=True)
    for axis, row in enumerate(stored_to_crop[:3][::-1]):
        voxel = sum((factor * along for factor, along in zip(row, stored_IJK, strict=False)), start=np.float64(row[3]))
        token = np.floor(np.round((voxel + 0.5 - begin[axis]) / step[axis], 6)).astype(np.int64)
        token = np.broadcast_to(token, scan.prepared.shape)
        inside &= (token >= 0) & (token < values_ZYXK.shape[axis])
        index.append(token.clip(0, values_ZYXK.shape[axis] - 1))
    values = values_ZYXK[tuple(index)] * inside[..., None]
    return nibabel.Nifti1Image(values, scan.prepared.affine)


def _anatomical(scan: InputScan, values_NK: Values, grid: Size3) -> Values:
    """From raster order with the depth first to the axes z, y, x."""
    return np.moveaxis(values_NK.reshape(*grid, -1), 0, scan.params.depth_axis)


def _token_places(scan: InputScan, tokens: tuple[int, ...]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where the first token begins and the extent of one, in voxels of the crop along z, y, x; voxel i covers [i, i + 1)."""
    begin, end = (edge.astype(np.float64) for edge in scan.params.roi())
    return begin, (end - begin) / np.array(tokens)
