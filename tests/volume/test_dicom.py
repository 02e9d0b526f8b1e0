"""DICOM series: a real conversion by dcm2niix of slices that are written here."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from mri_fm.volume import dicom
from mri_fm.volume.dicom import is_dicom, series_tags
from mri_fm.volume.read import read_series
from mri_fm.volume.refusal import Refusal


def write_series(folder: Path, voxels_ZYX: NDArray[np.uint16], *, modality: str = "MR", spacing: float = 4.0) -> list[Path]:
    """An axial series: rows run towards posterior, columns towards left, slices towards superior."""
    folder.mkdir(parents=True, exist_ok=True)
    series, study = generate_uid(), generate_uid()
    files = []
    for number, plane in enumerate(voxels_ZYX):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = MRImageStorage, generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        path = folder / f"slice{number:03d}.dcm"
        data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
        data.SOPClassUID, data.SOPInstanceUID = MRImageStorage, meta.MediaStorageSOPInstanceUID
        data.SeriesInstanceUID, data.StudyInstanceUID = series, study
        data.Modality, data.Manufacturer, data.PatientID, data.PatientName = modality, "GE MEDICAL SYSTEMS", "P1", "Doe^Jane"
        data.SeriesDescription, data.SeriesNumber, data.InstanceNumber = "AX T2 FSE", 3, number + 1
        data.ImageOrientationPatient, data.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [-30, -40, number * spacing]
        data.PixelSpacing, data.SliceThickness, data.SpacingBetweenSlices = [2, 2], spacing, spacing
        data.Rows, data.Columns = plane.shape
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated = data.BitsStored = 16
        data.HighBit, data.PixelRepresentation = 15, 0
        data.PixelData = plane.astype("<u2").tobytes()
        pydicom.dcmwrite(path, data)
        files.append(path)
    return files


def voxels() -> NDArray[np.uint16]:
    return np.random.default_rng(0).integers(0, 1000, (14, 32, 28)).astype(np.uint16)


def test_series_becomes_the_volume(tmp_path: Path) -> None:
    files = write_series(tmp_path / "series", voxels())
    volume = read_series(files[::-1])
    assert volume.array.shape == (28, 32, 14)
    i, j, k = np.rint(np.linalg.inv(volume.affine) @ [30, 40, 0, 1])[:3].astype(int)  # the first DICOM voxel, LPS (-30, -40, 0)
    assert volume.array[i, j, k] == voxels()[0, 0, 0]
    assert np.allclose(np.abs(np.diag(volume.affine))[:3], [2, 2, 4])
    assert volume.info["SeriesDescription"] == "AX T2 FSE"
    assert not any("Doe" in value or "P1" in value for value in volume.info.values())


def test_other_modality_and_broken_series(tmp_path: Path) -> None:
    with pytest.raises(Refusal) as refusal:
        read_series(write_series(tmp_path / "ct", voxels(), modality="CT"))
    assert refusal.value.code == "not_mr"
    files = write_series(tmp_path / "cut", voxels())
    files[0].write_bytes(files[0].read_bytes()[:200])
    with pytest.raises(Refusal):
        read_series(files[:1])


def test_tags_and_recognition(tmp_path: Path) -> None:
    (file, *_) = write_series(tmp_path / "a", voxels()[:1])
    assert is_dicom(file)
    assert series_tags(file)["PatientID"] == "P1"
    (tmp_path / "no").write_bytes(b"short")
    assert not is_dicom(tmp_path / "no")
    assert series_tags(tmp_path / "no") == {}


def test_a_series_that_is_several_volumes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def convert_twice(source: Path, target: Path) -> str:
        for name in ("a.nii", "b.nii"):
            (target / name).write_bytes(b"x")
        return ""

    monkeypatch.setattr(dicom, "_run_dcm2niix", convert_twice)
    with pytest.raises(Refusal) as refusal:
        read_series(write_series(tmp_path, voxels()[:2]))
    assert refusal.value.code == "ambiguous_series"
