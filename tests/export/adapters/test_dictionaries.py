"""A scan out of a dictionary is the scan out of its file."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from mri_fm.errors import UserError
from mri_fm.export.adapters.dictionaries import scan_of
from mri_fm.export.encoder import Encoder
from tests.corpora import flipped, resampled


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scan") / "scan.nii.gz"
    nibabel.save(flipped(resampled((4, 5, 4)), "PSR"), path)
    return path


def same_array(encoder: Encoder, given, scan: Path) -> bool:
    one, other = encoder.prepare(given).prepared, encoder.prepare(scan).prepared
    return np.array_equal(one.crop.voxels, other.crop.voxels) and np.allclose(one.crop.affine, other.crop.affine, atol=1e-4)


def test_monai_s_dictionary_gives_bitwise_the_same_array(encoder: Encoder, scan: Path) -> None:
    transforms = pytest.importorskip("monai.transforms", reason="MONAI is not installed (extra bench)")
    item = transforms.LoadImaged("image", ensure_channel_first=True)({"image": str(scan), "label": 1})
    assert same_array(encoder, scan_of(item, "image"), scan)
    assert same_array(encoder, scan_of(item), scan)
    assert same_array(encoder, item, scan)
    turned = transforms.Orientationd("image", axcodes="RAS", labels=(("L", "R"), ("P", "A"), ("I", "S")))(item)
    assert same_array(encoder, turned, scan)


def test_torchio_s_subject_gives_bitwise_the_same_array(encoder: Encoder, scan: Path) -> None:
    torchio = pytest.importorskip("torchio", reason="TorchIO is not installed (extra bench)")
    subject = torchio.Subject(t1=torchio.ScalarImage(scan), age=42)
    assert same_array(encoder, scan_of(subject, "t1"), scan)
    torch.testing.assert_close(encoder.embed([subject, subject])[1], encoder.embed(scan))
    assert same_array(encoder, torchio.ToCanonical()(subject), scan)


def test_a_path_in_a_dictionary_is_read(encoder: Encoder, scan: Path) -> None:
    assert scan_of({"image": str(scan)}, "image") == scan


class Image:
    def __init__(self, channels: int) -> None:
        self.data, self.affine = np.zeros((channels, 4, 4, 4)), np.eye(4)


@pytest.mark.parametrize(
    ("item", "key", "message"),
    [
        ({"a": Image(1), "b": Image(1)}, None, r"has 2 images \(a, b\)"),
        ({"age": 42}, None, "has 0 images"),
        ({"a": Image(1)}, "b", "no 'b', but a"),
        ({"a": 42}, "a", "'a' is no image"),
        ({"a": Image(2)}, "a", r"'a' has shape \(2, 4, 4, 4\)"),
    ],
)
def test_what_is_no_scan_is_named(item, key, message: str) -> None:
    with pytest.raises(UserError, match=message):
        scan_of(item, key)
