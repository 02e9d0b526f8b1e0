"""Orientation: whatever way a scan is stored, each voxel keeps its place in the world."""

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mri_fm.volume.orient import to_ras, translate
from mri_fm.volume.read import Volume
from mri_fm.volume.refusal import Refusal
from tests.corpora import flipped

AFFINE = np.array([[2.0, 0.1, 0, 30], [0, 3.0, -0.2, -40], [0.3, 0, 4.0, 5], [0, 0, 0, 1]])
ARRAY = np.arange(4 * 5 * 6).reshape(4, 5, 6)
codes = st.permutations(["LR", "PA", "IS"]).flatmap(lambda axes: st.tuples(*map(st.sampled_from, axes))).map("".join)


@given(codes)
def test_every_stored_orientation_gives_the_same_volume(stored: str) -> None:
    image = flipped(nibabel.Nifti1Image(ARRAY.astype("int32"), AFFINE), stored)
    ras = to_ras(Volume(np.asarray(image.dataobj), image.affine, "int32"))
    assert np.array_equal(ras.array, ARRAY.transpose(2, 1, 0))
    assert np.allclose(ras.affine, AFFINE, atol=1e-9)
    assert ras.orientation == stored
    assert np.allclose(ras.spacing, np.linalg.norm(AFFINE[:3, :3], axis=0)[::-1])


def test_crop_keeps_the_world() -> None:
    moved = translate(AFFINE, (3, 2, 1))
    assert np.allclose(moved @ [0, 0, 0, 1], AFFINE @ [1, 2, 3, 1])
    assert np.array_equal(AFFINE[:3, :3], moved[:3, :3])


def test_an_affine_without_three_directions_is_refused() -> None:
    with pytest.raises(Refusal) as refusal:
        to_ras(Volume(ARRAY, np.diag([1.0, 1.0, 0.0, 1.0]), "int32"))
    assert refusal.value.code == "no_orientation"
