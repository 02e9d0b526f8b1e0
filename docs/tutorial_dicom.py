"""Scans to practise on: `python docs/tutorial_dicom.py --out SCANS` writes DICOM series of made people and a labels.csv.

Each is the MNI152 template that nilearn ships with, in a size, shading and noise of its own. Half of the people, "patients",
have a dark ball in one hemisphere. What a probe finds there says that the steps of the tutorial work, and nothing about people.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import nibabel
import nilearn
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid
from scipy import ndimage

TEMPLATE = "datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
SPACING_MM = 4.0
LESION_MM = 16.0
PEOPLE = 24


def head(person: int, ill: bool) -> NDArray[np.uint16]:
    """A made person's scan, (Z, Y, X) with axes towards superior, anterior, right."""
    rng = np.random.default_rng(person)
    template = nibabel.load(Path(nilearn.__file__).parent / TEMPLATE)
    brain = np.asarray(template.dataobj, np.float32).transpose(2, 1, 0)
    small = ndimage.zoom(brain, rng.uniform(0.95, 1.05, 3) / SPACING_MM, order=1)
    shading = ndimage.zoom(rng.uniform(0.8, 1.2, (3, 3, 3)), np.array(small.shape) / 3, order=1)
    voxels = small * shading + np.where(small > 5, rng.normal(0, 4, small.shape), 0)
    if ill:
        centre = np.array(small.shape) * [0.55, 0.5, 0.33]
        distance = np.linalg.norm(np.indices(small.shape) - centre[:, None, None, None], axis=0) * SPACING_MM
        voxels[(distance < LESION_MM) & (small > 5)] *= 0.4
    return (8 * voxels).clip(0, 4095).astype(np.uint16)


def write_series(folder: Path, voxels_ZYX: NDArray[np.uint16], person: int) -> None:
    """An axial series, one file a slice; in DICOM rows run towards posterior and columns towards left."""
    folder.mkdir(parents=True)
    series, study = generate_uid(), generate_uid()
    for number, plane in enumerate(voxels_ZYX[:, ::-1, ::-1]):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = MRImageStorage, generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        data.SOPClassUID, data.SOPInstanceUID = MRImageStorage, meta.MediaStorageSOPInstanceUID
        data.SeriesInstanceUID, data.StudyInstanceUID = series, study
        data.Modality, data.Manufacturer, data.PatientID = "MR", "none", f"person{person:02d}"
        data.SeriesDescription, data.SeriesNumber, data.InstanceNumber = "T1 3D", 1, number + 1
        data.ImageOrientationPatient, data.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [-90, -110, number * SPACING_MM]
        data.PixelSpacing, data.SliceThickness = [SPACING_MM, SPACING_MM], SPACING_MM
        data.Rows, data.Columns = plane.shape
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 0
        data.PixelData = plane.tobytes()
        pydicom.dcmwrite(folder / f"{number:03d}.dcm", data)


def main() -> None:
    """Write all series and labels.csv."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to make")
    out = parser.parse_args().out
    rows = []
    for person in range(PEOPLE):
        folder = f"person{person:02d}/T1"
        write_series(out / folder, head(person, ill=person % 2 == 1), person)
        rows.append([folder, f"person{person:02d}", "T1", ("control", "patient")[person % 2]])
    with (out / "labels.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["path", "subject", "contrast", "group"], *rows])


if __name__ == "__main__":
    main()
