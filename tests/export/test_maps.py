"""A token lies in the scan where its voxels are."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from mri_fm.data.twin import resample
from mri_fm.errors import UserError
from mri_fm.export.encoder import Encoder
from mri_fm.models.patches import patchify
from tests.corpora import flipped, resampled


def oblique(image: nibabel.Nifti1Image) -> nibabel.Nifti1Image:
    """The same scan in a head that is turned by 20 degrees and elsewhere."""
    angle = np.radians(20)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    turn[:3, 3] = 7, -5, 3
    return nibabel.Nifti1Image(np.asarray(image.dataobj), turn @ image.affine)


@pytest.fixture(params=["RAS", "LAS", "PSR", "oblique", "thick"])
def scan(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    image = resampled((4, 4, 4) if request.param != "thick" else (3, 6, 3))
    image = oblique(image) if request.param == "oblique" else image
    image = flipped(image, request.param) if request.param in ("LAS", "PSR") else image
    nibabel.save(image, tmp_path / "scan.nii")
    return tmp_path / "scan.nii"


def coordinates(encoder: Encoder, scan: Path) -> torch.Tensor:
    """Mean world coordinates of the voxels that each token of the input sees, (N, 3), by sending coordinates the same way."""
    prepared = encoder.prepare(scan)
    crop = prepared.prepared.crop
    index_ZYX = np.meshgrid(*map(np.arange, crop.voxels.shape), indexing="ij")
    columns = []
    for row in crop.affine[:3]:
        world_ZYX = row[0] * index_ZYX[2] + row[1] * index_ZYX[1] + row[2] * index_ZYX[0] + row[3]
        resized = resample(torch.from_numpy(world_ZYX.astype(np.float32)), prepared.params)
        x_DHW = resized.movedim(prepared.params.depth_axis, 0)
        columns.append(patchify(x_DHW[None, None], encoder.network.patch)[0].mean(1))
    return torch.stack(columns, dim=1)


def inner(encoder: Encoder) -> torch.Tensor:
    """Tokens that do not touch the input's border, where the resize repeats the outermost voxel."""
    inside = torch.ones(encoder.network.grid)
    for axis, n in enumerate(encoder.network.grid):
        if n > 2:
            inside.index_fill_(axis, torch.tensor([0, n - 1]), 0)
    return inside.flatten().bool()


def test_a_map_of_tokens_lies_where_their_voxels_are(encoder: Encoder, scan: Path) -> None:
    world_N3 = coordinates(encoder, scan)
    image = encoder.token_map(scan, world_N3)
    index = np.stack(np.meshgrid(*map(np.arange, image.shape[:3]), indexing="ij"), -1)
    placed = nibabel.affines.apply_affine(image.affine, index)
    kept = encoder.token_map(scan, inner(encoder)[:, None].float()).get_fdata()[..., 0] > 0
    assert kept.any()
    np.testing.assert_allclose(image.get_fdata()[kept], placed[kept], atol=1.5)
    assert image.shape == (*image.shape[:3], 3)


def test_a_map_on_the_scan_has_its_shape_and_affine_and_agrees(encoder: Encoder, scan: Path) -> None:
    stored = nibabel.load(scan)
    numbered = torch.arange(1.0, encoder.network.num_tokens + 1)[:, None]
    grid, laid = (encoder.token_map(scan, numbered, on_scan=on_scan) for on_scan in (False, True))
    assert laid.shape == (*stored.shape, 1)
    np.testing.assert_array_equal(laid.affine, stored.affine)
    index = np.argwhere(laid.get_fdata()[..., 0] > 0)
    world = nibabel.affines.apply_affine(laid.affine, index)
    token = np.rint(nibabel.affines.apply_affine(np.linalg.inv(grid.affine), world) + 1e-4).astype(int)
    same = (
        grid.get_fdata()[tuple(token.clip(0, np.array(grid.shape[:3]) - 1).T)][:, 0] == laid.get_fdata()[tuple(index.T)][:, 0]
    )
    assert same.mean() > 0.999
    assert set(np.unique(laid.get_fdata())) == {0.0, *numbered.flatten().tolist()}


def test_tokens_themselves_are_the_default(encoder: Encoder, scan: Path) -> None:
    image = encoder.token_map(scan)
    tokens = encoder.tokens(scan)
    assert image.shape[3] == encoder.width
    values = np.sort(image.get_fdata(dtype=np.float32).reshape(-1, encoder.width), axis=0)
    np.testing.assert_array_equal(values, np.sort(tokens.numpy(), axis=0))


def test_values_that_are_not_one_row_per_token_are_named(encoder: Encoder, scan: Path) -> None:
    with pytest.raises(UserError, match="a row per token"):
        encoder.token_map(scan, torch.zeros(3, 1))
