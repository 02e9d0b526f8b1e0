"""What sidecars and BIDS names state."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from mri_fm.volume.read import read_volume
from mri_fm.volume.refusal import Refusal
from mri_fm.volume.statements import check_sidecar, sidecar_of
from tests.corpora import resampled


def decision(path: Path) -> str:
    try:
        check_sidecar(path)
    except Refusal as refusal:
        return refusal.code
    return ""


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"Modality": "MR", "ImageType": ["ORIGINAL", "PRIMARY", "M", "ND", "NORM"], "Units": "arbitrary"}, ""),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "T1", "NONE"]}, ""),  # enhanced MR names the contrast there
        ({"ImageType": ["DERIVED", "SECONDARY", "MPR"]}, ""),  # reformatted slices are magnitudes
        ({"Modality": "CT"}, "not_mr"),
        ({"Modality": "PT", "Units": "Bq/mL"}, "not_mr"),
        ({"TracerName": "FDG"}, "not_mr"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "P", "ND"]}, "derived_map"),
        ({"ImageType": "DERIVED\\PRIMARY\\M\\T2 MAP"}, "derived_map"),
        ({"Units": "Hz"}, "derived_map"),
        ({"Units": "mm²/s"}, "derived_map"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localizer"),
        ({"Species": "Mus musculus"}, "non_human"),
        ({"Species": "Homo sapiens"}, ""),
        (["a", "list"], ""),
    ],
)
def test_sidecars(tmp_path: Path, fields: object, code: str) -> None:
    (tmp_path / "a.json").write_text(json.dumps(fields))
    assert decision(tmp_path / "a.nii.gz") == code


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe{}", b"[" * 100_000, b'{"Units": 3}', b'{"ImageType": [1, null]}'])
def test_a_damaged_sidecar_says_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    assert decision(tmp_path / "a.nii") == ""


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("sub-01_ses-1_T1w.nii.gz", ""),
        ("sub-01_UNIT1.nii.gz", ""),
        ("sub-01_sbref.nii.gz", ""),
        ("sub-01_dseg.nii.gz", ""),  # labels are told by content
        ("sub-01_T1map.nii.gz", "derived_map"),
        ("sub-01_task-rest_part-phase_bold.nii.gz", "derived_map"),
        ("sub-01_label-GM_probseg.nii.gz", "derived_map"),
        ("sub-01_pet.nii.gz", "not_mr"),
        ("phase.nii.gz", ""),  # no name of BIDS
    ],
)
def test_bids_names(tmp_path: Path, name: str, code: str) -> None:
    assert decision(tmp_path / name) == code


def test_names_of_sidecars() -> None:
    assert sidecar_of("a.b/c_T1w.nii.gz") == "a.b/c_T1w.json"
    assert sidecar_of("a/c.mif") == "a/c.json"
    assert sidecar_of("a/c.nii.BZ2") == "a/c.json"


def test_one_volume_of_a_series_on_request(tmp_path: Path) -> None:
    image = resampled((8, 8, 8))
    array = np.asarray(image.dataobj)
    nibabel.save(nibabel.Nifti1Image(np.stack([array // 3, array, array // 2], -1), image.affine), tmp_path / "a.nii.gz")
    with pytest.raises(Refusal, match="not_3d"):
        read_volume(tmp_path / "a.nii.gz")
    assert np.array_equal(read_volume(tmp_path / "a.nii.gz", reference_volume=True).array, array // 3)
    for b_values, chosen in (("1000 0 0", array), ("0 1000", array // 3), ("a b c", array // 3)):
        (tmp_path / "a.bval").write_text(b_values)
        assert np.array_equal(read_volume(tmp_path / "a.nii.gz", reference_volume=True).array, chosen)
    rgb = np.zeros((4, 4, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.save(nibabel.Nifti1Image(rgb, image.affine), tmp_path / "rgb.nii")
    with pytest.raises(Refusal, match="not_3d"):  # colour is no series
        read_volume(tmp_path / "rgb.nii", reference_volume=True)
