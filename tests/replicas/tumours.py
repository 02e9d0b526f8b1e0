"""Replicas of BraTS 2024 and UCSF-PDGM."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np

from tests.replicas.people import head, write, write_text

SERIES = {"t1n": "T1", "t1c": "T1", "t2w": "T2", "t2f": "FLAIR"}
UCSF_SERIES = {"T1": "T1", "T1_bias": "T1", "T1c": "T1", "T2": "T2", "FLAIR": "FLAIR", "DWI": "OTHER", "ADC": "OTHER"}


def brats2024(root: Path, people: int, clean: bool) -> None:
    """t1n, t1c, t2w and t2f of all; the first person has two sessions. Not clean: a segmentation of each."""
    for person in range(people):
        for session in (100, 101)[: 2 if person == 0 else 1]:
            name = f"BraTS-GLI-{90000 + person}-{session}"
            for scan, (series, contrast) in enumerate(SERIES.items()):
                write(root, f"training_data/{name}/{name}-{series}.nii.gz", head(9000 + person, 10 * session + scan, contrast))
            if not clean:
                write(root, f"training_data/{name}/{name}-seg.nii.gz", _segmentation(9000 + person))


def ucsf_pdgm(root: Path, people: int, clean: bool) -> None:
    """Seven series of all, WHO grades 2, 4 and 3 in turn. Not clean: a segmentation and a fractional anisotropy of each."""
    lines = ["ID,Sex,Age at MRI,WHO CNS Grade,Final pathologic diagnosis (WHO 2021),MGMT status,1p/19q,IDH,1-dead 0-alive,OS"]
    for person in range(people):
        uid = f"UCSF-PDGM-{900 + person:04d}"
        grade = (2, 4, 3)[person % 3]
        lines.append(f'UCSF-PDGM-{900 + person:03d},{"FM"[person % 2]},{50 + person},{grade},"Glioma, made up",n,n,wt,0,300')
        for scan, (series, contrast) in enumerate(UCSF_SERIES.items()):
            write(root, f"UCSF-PDGM-v3/{uid}_nifti/{uid}_{series}.nii.gz", head(10000 + person, scan, contrast))
        if not clean:
            write(root, f"UCSF-PDGM-v3/{uid}_nifti/{uid}_tumor_segmentation.nii.gz", _segmentation(10000 + person))
            write(root, f"UCSF-PDGM-v3/{uid}_nifti/{uid}_DTI_eddy_FA.nii.gz", head(10000 + person, 50, "OTHER"))
    write_text(root, "UCSF-PDGM-metadata_v2.csv", "\n".join(lines) + "\n")


def _segmentation(person: int) -> nibabel.Nifti1Image:
    image = head(person)
    return nibabel.Nifti1Image((np.asarray(image.dataobj) > 400).astype(np.uint8), image.affine)
