"""Replicas of PPMI, ABIDE I, IXI, MOOD, a BIDS tree, and a folder with a CSV file."""

from __future__ import annotations

from pathlib import Path

from tests.replicas.ageing import loni_scan, loni_xml
from tests.replicas.people import head, write, write_text

PPMI_GROUPS = ("Control", "PD", "Prodromal", "SWEDD", "GenReg Unaff")
ABIDE_SITES = ("NYU", "UCLA_1")


def ppmi(root: Path, people: int, clean: bool) -> None:
    """T1 of all, groups Control, PD, Prodromal, SWEDD and another in turn. Not clean: a T2 in the space of the T1."""
    for person in range(people):
        subject, number = f"9{person:04d}", 20000 + person
        _ppmi_scan(root, subject, "T1-anatomical", number, 3000 + person, PPMI_GROUPS[person % 5])
    if not clean:
        _ppmi_scan(root, "90000", "T2_in_T1-anatomical_space", 29000, 3000, "Control", "T2")


def _ppmi_scan(root: Path, subject: str, words: str, number: int, person: int, group: str, contrast: str = "T1") -> None:
    write(root, loni_scan(root, "PPMI", subject, words, "2014-02-26", number) + ".nii", head(person, 0, contrast))
    loni_xml(root, "PPMI", subject, words, number, group=group, weighting=contrast)


def abide1(root: Path, people: int, clean: bool) -> None:
    """T1 of all, autism and control in turn, over two sites; the last person lies in INDI's layout.

    Not clean: INDI's functional scan of that person, and a person whom the table lacks.
    """
    lines = ["SITE_ID,SUB_ID,DX_GROUP,DSM_IV_TR,AGE_AT_SCAN,SEX,HANDEDNESS_CATEGORY"]
    for person in range(people):
        subject = f"51{900 + person}"
        lines.append(f"{ABIDE_SITES[person // 2 % 2]},{subject},{1 + person % 2},{1 - person % 2},{12 + person}.37,1,R")
        image = head(4000 + person)
        if person < people - 1:
            write(root, loni_scan(root, "ABIDE", subject, "MP-RAGE", "2000-01-01", 30000 + person) + ".nii", image)
        else:
            write(root, f"UCLA_1/00{subject}/session_1/anat_1/mprage.nii.gz", image)
    if not clean:
        write(root, f"UCLA_1/0051{899 + people}/session_1/rest_1/rest.nii.gz", head(4999, 1))
        write(root, loni_scan(root, "ABIDE", "50999", "MP-RAGE", "2000-01-01", 39000) + ".nii", head(4998))
    write_text(root, "Phenotypic_V1_0b.csv", "\n".join(lines) + "\n")


def ixi(root: Path, people: int, clean: bool) -> None:
    """T1 of all and T2 of the first, over three sites; the table knows sex, age and, not to be read, birthdays."""
    lines = ['IXI_ID,"SEX_ID (1=m, 2=f)",HEIGHT,WEIGHT,DOB,AGE']
    for person in range(people):
        name = f"IXI{900 + person}-{('Guys', 'HH', 'IOP')[person % 3]}-{1000 + person}"
        lines.append(f"{900 + person},{1 + person % 2},170,70,1958-03-04,{30 + person}.813")
        write(root, f"IXI-T1/{name}-T1.nii.gz", head(5000 + person))
    write(root, "IXI-T2/IXI900-Guys-1000-T2.nii.gz", head(5000, 1, "T2"))
    write_text(root, "IXI.csv", "\n".join(lines) + "\n")


def mood(root: Path, people: int, clean: bool) -> None:
    """Brains by number. Not clean: an abdomen."""
    for person in range(people):
        write(root, f"mood/brain_train/{person:05d}.nii.gz", head(6000 + person))
    if not clean:
        write(root, "mood/abdom_train/00000.nii.gz", head(6999))


def bids(root: Path, people: int, clean: bool) -> None:
    """T1 of all and FLAIR of the first, with participants.tsv: age, sex, group, and a name that must go nowhere."""
    lines = ["participant_id\tage\tsex\tgroup\tfull_name"]
    for person in range(people):
        subject = f"sub-{person + 1:02d}"
        lines.append(f"{subject}\t{40 + person}\t{'FM'[person % 2]}\t{('depr', 'control')[person % 2]}\tJane Roe")
        write(root, f"{subject}/ses-1/anat/{subject}_ses-1_T1w.nii.gz", head(7000 + person))
    write(root, "sub-01/ses-1/anat/sub-01_ses-1_FLAIR.nii.gz", head(7000, 1, "FLAIR"))
    write_text(root, "participants.tsv", "\n".join(lines) + "\n")
    write_text(root, "dataset_description.json", '{"Name": "replica", "BIDSVersion": "1.9.0"}')


def folder(root: Path, people: int, clean: bool) -> None:
    """Scans in folders of the people's names, and labels.csv, which knows all but the last."""
    lines = ["path,dataset,subject,contrast,group"]
    for person in range(people):
        path = f"Doe_Jane_{person}/scan.nii.gz"
        write(root, path, head(8000 + person))
        if person < people - 1:
            lines.append(f"{path},own,p{person},T1,{'ab'[person % 2]}")
    write_text(root, "labels.csv", "\n".join(lines) + "\n")
