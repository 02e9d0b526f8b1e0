"""Canonical form: one hash for one scan, and the rules that refuse."""

import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from mri_fm.volume.canonical import canonicalise
from mri_fm.volume.read import Volume, read_volume
from mri_fm.volume.refusal import Refusal
from tests.corpora import flipped, resampled


def volume_of(image: nibabel.Nifti1Image) -> Volume:
    return Volume(np.asarray(image.dataobj), image.affine, "int16")


@pytest.mark.parametrize("stored", ["LAS", "PSR", "ILA"])
def test_one_scan_has_one_hash_however_it_is_stored(tmp_path: Path, stored: str) -> None:
    image = resampled((5, 4, 6))
    nibabel.save(flipped(image, stored), tmp_path / "a.nii.gz")
    nibabel.save(nibabel.MGHImage(np.asarray(image.dataobj), image.affine), tmp_path / "a.mgz")
    hashes = {canonicalise(read_volume(tmp_path / name)).content_hash() for name in ("a.nii.gz", "a.mgz")}
    assert hashes == {canonicalise(volume_of(image)).content_hash()}


def test_the_hash_sees_voxels_shape_and_spacing() -> None:
    array = np.asarray(resampled((5, 5, 5)).dataobj)
    changed = array.copy()
    changed[20, 20, 20] += 1
    affine = np.diag([5.0, 5, 5, 1])
    stretched, shifted = np.diag([5.002, 5, 5, 1]), affine.copy()
    shifted[:3, 3] = 9
    hashes = [canonicalise(Volume(a, m, "int16")).content_hash() for a, m in
              ((array, affine), (changed, affine), (array, stretched), (array[:-1], affine), (array, shifted))]  # fmt: skip
    assert len(set(hashes[:4])) == 4
    assert hashes[4] == hashes[0]


@pytest.mark.parametrize("spacing", [0.9375, 0.4765625, 1.0, 1.2, 0.8984375])
def test_noise_in_the_affine_does_not_change_the_hash(spacing: float) -> None:
    array = np.random.default_rng(0).integers(0, 500, (124, 60, 60))
    noisy = [np.diag([spacing * (1 + noise), 1.0, 1.0, 1.0]) for noise in (0, 3e-7, -3e-7)]
    assert len({canonicalise(Volume(array, affine, "int64")).content_hash() for affine in noisy}) == 1


@pytest.mark.parametrize(
    ("shape", "spacing", "code"),
    [
        ((40, 40, 40), (1.25, 2, 2), "field_of_view"),
        ((40, 40, 40), (6.52, 2, 2), "spacing"),
        ((40, 40, 3), (2, 2, 6), "too_few_slices"),
        ((40, 40, 40), (6.509, 1.26, 2), None),
    ],
)
def test_geometry_rules(shape: tuple[int, ...], spacing: tuple[float, ...], code: str | None) -> None:
    volume = Volume(np.random.default_rng(0).integers(0, 500, shape), np.diag([*spacing, 1.0]), "int64")
    if code is None:
        canonicalise(volume)
        return
    with pytest.raises(Refusal) as refusal:
        canonicalise(volume)
    assert refusal.value.code == code


def test_a_segmentation_is_refused() -> None:
    with pytest.raises(Refusal) as refusal:
        canonicalise(Volume(np.random.default_rng(0).integers(0, 4, (40, 40, 40)), np.diag([2.0, 2, 2, 1]), "int64"))
    assert refusal.value.code == "label"


def test_voxels_and_affine_lead_back_to_the_source() -> None:
    image = resampled((4, 5, 6))
    canonical = canonicalise(volume_of(flipped(image, "LPS")))
    source = canonical.voxels.astype(float) * canonical.scale + canonical.offset
    assert np.array_equal(source.T, np.asarray(image.dataobj))
    assert np.allclose(canonical.affine, image.affine)
    assert canonical.spacing == (6.0, 5.0, 4.0)


def test_no_torch_is_imported() -> None:
    code = "import sys, mri_fm.volume.canonical, mri_fm.volume.read; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
