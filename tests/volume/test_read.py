"""Reading: every format gives the voxels that were stored, and whatever is wrong is a `Refusal`."""

import contextlib
import gzip
import os
import shutil
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mri_fm.volume.read import read_volume
from mri_fm.volume.refusal import CODES, Refusal

SAMPLES = Path(nibabel.__file__).parent / "tests" / "data"
REUSED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]  # each example writes over the one before
AFFINE = np.array([[-2.0, 0.1, 0, 30], [0, 3.0, -0.2, -40], [0.3, 0, 4.0, 5], [0, 0, 0, 1]])


def voxels(dtype: str = "int16") -> NDArray:
    return np.random.default_rng(0).integers(0, 200, (7, 6, 5)).astype(dtype)


def code_of(path: Path) -> str:
    with pytest.raises(Refusal) as refusal:
        read_volume(path)
    assert refusal.value.code in CODES
    assert "\n" not in refusal.value.reason
    assert str(path.parent) not in refusal.value.reason
    return refusal.value.code


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (nibabel.Nifti1Image, "a.nii"),
        (nibabel.Nifti1Image, "a.nii.gz"),
        (nibabel.Nifti2Image, "a.nii.gz"),
        (nibabel.Nifti1Pair, "a.hdr"),
        (nibabel.MGHImage, "a.mgh"),
        (nibabel.MGHImage, "a.mgz"),
    ],
)
@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
def test_round_trip(tmp_path: Path, kind: type, name: str, dtype: str) -> None:
    nibabel.save(kind(voxels(dtype), AFFINE), tmp_path / name)
    volume = read_volume(tmp_path / name)
    assert np.array_equal(volume.array, voxels(dtype))
    assert volume.dtype == dtype
    assert np.allclose(volume.affine, AFFINE, atol=1e-4)


@pytest.mark.parametrize("name", ["tiny.mnc", "minc1_1_scale.mnc", "minc2_1_scale.mnc", "small.mnc", "anatomical.nii"])
def test_samples_equal_nibabel(name: str) -> None:
    image = nibabel.load(SAMPLES / name)
    volume = read_volume(SAMPLES / name)
    assert np.allclose(volume.array, image.get_fdata(), rtol=1e-6)
    assert np.array_equal(volume.affine, image.affine)


def test_scaled_and_big_endian_voxels(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(voxels(), AFFINE).as_reoriented([[0, 1], [1, 1], [2, 1]])
    header = image.header.as_byteswapped(">")
    header.set_slope_inter(0.5, -3)
    nibabel.save(nibabel.Nifti1Image(voxels() * 0.5 - 3, AFFINE, header), tmp_path / "a.nii")
    assert np.allclose(read_volume(tmp_path / "a.nii").array, voxels() * 0.5 - 3, atol=1e-3)


def test_singleton_axes_are_dropped_and_others_are_refused(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(voxels()[..., None], AFFINE), tmp_path / "one.nii")
    assert read_volume(tmp_path / "one.nii").array.shape == (7, 6, 5)
    nibabel.save(nibabel.Nifti1Image(np.stack([voxels()] * 2, -1), AFFINE), tmp_path / "two.nii")
    assert code_of(tmp_path / "two.nii") == "not_3d"
    nibabel.save(nibabel.Nifti1Image(voxels("complex64"), AFFINE), tmp_path / "complex.nii")
    assert code_of(tmp_path / "complex.nii") == "not_3d"
    rgb = np.zeros((4, 4, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.save(nibabel.Nifti1Image(rgb, AFFINE), tmp_path / "rgb.nii")
    assert code_of(tmp_path / "rgb.nii") == "not_3d"


def test_no_orientation(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(voxels(), AFFINE)
    image.set_qform(None, 0)
    image.set_sform(None, 0)
    nibabel.save(image, tmp_path / "a.nii")
    assert code_of(tmp_path / "a.nii") == "no_orientation"
    content = bytearray(nibabel.Nifti1Image(voxels(), AFFINE).to_bytes())
    content[252:254] = b"\0\0"  # qform_code
    content[296:312] = content[280:296]  # srow_y = srow_x
    (tmp_path / "flat.nii").write_bytes(content)
    assert code_of(tmp_path / "flat.nii") == "no_orientation"
    nibabel.save(nibabel.AnalyzeImage(voxels(), np.diag([2, 2, 2, 1])), tmp_path / "analyze.hdr")
    assert code_of(tmp_path / "analyze.hdr") == "no_orientation"
    content = bytearray(nibabel.MGHImage(voxels(), AFFINE).to_bytes())
    content[28:30] = b"\0\0"  # goodRASFlag
    for name, blob in (("a.mgh", bytes(content)), ("a.mgz", gzip.compress(content))):
        (tmp_path / name).write_bytes(blob)
        assert code_of(tmp_path / name) == "no_orientation"


def test_a_header_that_promises_too_much_allocates_nothing(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(voxels(), AFFINE)
    content = bytearray(image.to_bytes())
    content[42:48] = np.array([1000, 1000, 1000], "<i2").tobytes()
    for name, blob in (("a.nii", bytes(content)), ("a.nii.gz", gzip.compress(content))):
        (tmp_path / name).write_bytes(blob)
        assert code_of(tmp_path / name) == "truncated"
    content[42:48] = np.array([32767, 32767, 32767], "<i2").tobytes()
    (tmp_path / "a.nii").write_bytes(content)
    assert code_of(tmp_path / "a.nii") == "too_large"


def test_hdf5_that_promises_voxels_it_does_not_hold_allocates_nothing(tmp_path: Path) -> None:
    shutil.copy(SAMPLES / "minc2_1_scale.mnc", tmp_path / "a.mnc")
    with h5py.File(tmp_path / "a.mnc", "r+") as file:
        group = file["minc-2.0/image/0"]
        attributes = dict(group["image"].attrs)
        del group["image"]
        group.create_dataset("image", shape=(1000, 1000, 900), dtype="u1", chunks=(100, 100, 100)).attrs.update(attributes)
    assert (tmp_path / "a.mnc").stat().st_size < 1e6
    assert code_of(tmp_path / "a.mnc") == "truncated"


def test_a_changed_byte_inside_gzip_is_noticed(tmp_path: Path) -> None:
    content = bytearray(nibabel.Nifti1Image(voxels(), AFFINE).to_bytes())
    stored = bytearray(gzip.compress(bytes(content), compresslevel=0))
    stored[-20] ^= 1  # a voxel: only the checksum can tell
    (tmp_path / "a.nii.gz").write_bytes(stored)
    assert code_of(tmp_path / "a.nii.gz") == "not_readable"
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(bytes(content) + b"\1" * (1 << 21)))
    assert code_of(tmp_path / "b.nii.gz") == "not_readable"


@settings(max_examples=60, suppress_health_check=REUSED)
@given(cut=st.floats(0, 0.999), name=st.sampled_from(["a.nii", "a.nii.gz", "a.mgz", "a.mgh"]))
def test_any_cut_is_a_refusal(tmp_path: Path, cut: float, name: str) -> None:
    kind = nibabel.MGHImage if ".mg" in name else nibabel.Nifti1Image
    nibabel.save(kind(voxels(), AFFINE), tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    voxel_end = len(whole) - 20 if name == "a.mgh" else len(whole)  # an MGH footer is optional
    (tmp_path / name).write_bytes(whole[: int(cut * voxel_end)])
    assert code_of(tmp_path / name) in ("truncated", "not_readable")


@settings(max_examples=80, suppress_health_check=REUSED)
@given(content=st.binary(max_size=600), suffix=st.sampled_from([".nii", ".nii.gz", ".mgz", ".mnc", ".PAR", ".hdr", ".pdf", ""]))
def test_any_bytes_are_a_refusal(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    code_of(path)


@settings(max_examples=80, suppress_health_check=REUSED)
@given(position=st.integers(0, 347), value=st.integers(0, 255))
def test_any_changed_header_byte_is_read_or_refused(tmp_path: Path, position: int, value: int) -> None:
    content = bytearray(nibabel.Nifti1Image(voxels(), AFFINE).to_bytes())
    content[position] = value
    (tmp_path / "a.nii").write_bytes(content)
    with contextlib.suppress(Refusal):
        assert read_volume(tmp_path / "a.nii").array.ndim == 3


def test_missing_companion(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Pair(voxels(), AFFINE), tmp_path / "a.hdr")
    (tmp_path / "a.img").unlink()
    assert code_of(tmp_path / "a.hdr") == "not_readable"
    assert code_of(tmp_path / "absent.nii") == "not_readable"


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.nii")
    assert code_of(tmp_path / "a.nii") == "not_readable"
