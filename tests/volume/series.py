"""DICOM written from a scan: classic slices or one enhanced file, any vendor's name, any transfer syntax."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nibabel
import numpy as np
import pydicom
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import EnhancedMRImageStorage, ExplicitVRLittleEndian, MRImageStorage, RLELossless, generate_uid

VENDORS = ("SIEMENS", "GE MEDICAL SYSTEMS", "Philips Medical Systems", "UIH", "Canon Medical Systems", "HITACHI", "Hyperfine")
COLUMN, ROW = [1, 0, 0], [0, 1, 0]  # LPS: columns run to the left, rows to posterior; slices to superior
NICOM = Path(nibabel.__file__).parent / "nicom" / "tests" / "data"
ORIGIN = (-30.0, -40.0, 0.0)


def write_series(
    folder: Path,
    voxels_ZYX: NDArray[np.uint16],
    *,
    modality: str = "MR",
    spacing: float = 4.0,
    in_plane: float = 2.0,
    name: Callable[[int], str] = "slice{:03d}.dcm".format,
    first: int = 1,
    encode: Callable[[FileDataset, NDArray[np.uint16]], None] | None = None,
    **tags: Any,
) -> list[Path]:
    """An axial series of one file per slice.

    Args:
        folder: made if needed.
        voxels_ZYX: rows towards posterior, columns towards left, slices towards superior.
        modality: DICOM's.
        spacing: between slices, mm.
        in_plane: between rows and columns, mm.
        name: number of a slice → its file name.
        first: instance number of the first slice.
        encode: puts the pixels of a slice into its data set in another transfer syntax.
        tags: further data elements, by keyword; they win.
    """
    folder.mkdir(parents=True, exist_ok=True)
    series, study = generate_uid(), generate_uid()
    files = []
    for number, plane in enumerate(voxels_ZYX):
        data = _dataset(folder / name(number), MRImageStorage, plane.shape)
        data.SeriesInstanceUID, data.StudyInstanceUID = series, study
        data.Modality = modality
        data.InstanceNumber = first + number
        data.ImageOrientationPatient, data.ImagePositionPatient = COLUMN + ROW, [*ORIGIN[:2], ORIGIN[2] + number * spacing]
        data.PixelSpacing, data.SliceThickness, data.SpacingBetweenSlices = [in_plane] * 2, spacing, spacing
        data.PixelData = plane.astype("<u2").tobytes()
        data.update({keyword: value for keyword, value in tags.items() if keyword != "SOPClassUID"})
        if "SOPClassUID" in tags:
            data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = tags["SOPClassUID"]
        if encode is not None:
            encode(data, plane.astype(np.uint16))
        data.save_as(folder / name(number), enforce_file_format=True)
        files.append(folder / name(number))
    return files


def write_enhanced(path: Path, voxels_ZYX: NDArray[np.uint16], *, spacing: float = 4.0, in_plane: float = 2.0) -> Path:
    """The same series as one file of enhanced MR, one frame per slice (PS3.3, A.36)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = _dataset(path, EnhancedMRImageStorage, voxels_ZYX.shape[1:])
    data.SeriesInstanceUID, data.StudyInstanceUID, data.Modality = generate_uid(), generate_uid(), "MR"
    data.InstanceNumber, data.NumberOfFrames = 1, len(voxels_ZYX)
    data.DimensionOrganizationSequence = Sequence([_item(DimensionOrganizationUID=generate_uid())])
    data.SharedFunctionalGroupsSequence = Sequence([_item(
        PlaneOrientationSequence=[_item(ImageOrientationPatient=COLUMN + ROW)],
        PixelMeasuresSequence=[_item(PixelSpacing=[in_plane] * 2, SliceThickness=spacing, SpacingBetweenSlices=spacing)],
    )])  # fmt: skip
    data.PerFrameFunctionalGroupsSequence = Sequence([_item(
        FrameContentSequence=[_item(StackID="1", InStackPositionNumber=number + 1, DimensionIndexValues=[1, number + 1])],
        PlanePositionSequence=[_item(ImagePositionPatient=[*ORIGIN[:2], ORIGIN[2] + number * spacing])],
    ) for number in range(len(voxels_ZYX))])  # fmt: skip
    data.PixelData = voxels_ZYX.astype("<u2").tobytes()
    data.save_as(path, enforce_file_format=True)
    return path


def run_length(data: FileDataset, plane: NDArray[np.uint16]) -> None:
    """RLE Lossless, by pydicom."""
    data.compress(RLELossless)


def by_gdcm(compressor: str) -> Callable[[FileDataset, NDArray[np.uint16]], None]:
    """JPEG or JPEG2000, lossless, by the GDCM in SimpleITK."""

    def encode(data: FileDataset, plane: NDArray[np.uint16]) -> None:
        with TemporaryDirectory() as folder:
            writer = sitk.ImageFileWriter()
            writer.SetFileName(f"{folder}/a.dcm")
            writer.UseCompressionOn()
            writer.SetCompressor(compressor)
            writer.Execute(sitk.GetImageFromArray(plane))
            take_pixels(data, Path(folder, "a.dcm"))

    return encode


def take_pixels(data: FileDataset, source: Path) -> None:
    """Put the compressed pixels of another file into a data set."""
    other = pydicom.dcmread(source)
    data.file_meta.TransferSyntaxUID = other.file_meta.TransferSyntaxUID
    for keyword in ("PixelData", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "Rows", "Columns"):
        setattr(data, keyword, getattr(other, keyword))
    data["PixelData"].VR = "OB"
    data["PixelData"].is_undefined_length = True


def write_mosaic(path: Path, voxels_ZYX: NDArray[np.uint16]) -> Path:
    """A Siemens mosaic: the header of a real one (nibabel's test data, 48 slices of 128 × 128), these slices in its tiles."""
    data = pydicom.dcmread(BytesIO(gzip.decompress((NICOM / "siemens_dwi_0.dcm.gz").read_bytes())))
    side = data.Rows // 7
    mosaic = np.zeros((data.Rows, data.Columns), "<u2")
    for number, plane in enumerate(voxels_ZYX):
        row, column = divmod(number, 7)
        mosaic[row * side : (row + 1) * side, column * side : (column + 1) * side] = plane
    data.PixelData = mosaic.tobytes()
    data.save_as(path)
    return path


def write_philips(path: Path, voxels_ZYX: NDArray[np.uint16]) -> Path:
    """Enhanced MR with the header of a real MPRAGE (nibabel's test data, 176 sagittal frames of 256 × 256)."""
    data = pydicom.dcmread(BytesIO(gzip.decompress((NICOM / "philips_mprage.dcm.gz").read_bytes())))
    data.PixelData = voxels_ZYX.astype("<u2").tobytes()
    data.save_as(path)
    return path


def affine_of(spacing: float = 4.0, in_plane: float = 2.0) -> NDArray[np.float64]:
    """(column, row, slice, 1) → RAS+ millimetres of what is written here."""
    affine = np.diag([-in_plane, -in_plane, spacing, 1.0])
    affine[:3, 3] = -ORIGIN[0], -ORIGIN[1], ORIGIN[2]
    return affine


def _dataset(path: Path, sop_class: str, plane: tuple[int, ...]) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = sop_class, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = sop_class, meta.MediaStorageSOPInstanceUID
    data.Manufacturer, data.PatientID, data.PatientName = "GE MEDICAL SYSTEMS", "P1", "Doe^Jane"
    data.SeriesDescription, data.SeriesNumber = "AX T2 FSE", 3
    data.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
    data.Rows, data.Columns = plane
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation = 15, 0
    return data


def _item(**elements: Any) -> Dataset:
    item = Dataset()
    for keyword, value in elements.items():
        setattr(item, keyword, Sequence(value) if keyword.endswith("Sequence") else value)
    return item
