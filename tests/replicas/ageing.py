"""Replicas of ADNI, NACC/SCAN and OASIS-3."""

from __future__ import annotations

from pathlib import Path

from tests.replicas.people import changed, head, write, write_text

XML = """<?xml version="1.0" encoding="UTF-8"?>
<idaxs xmlns="http://ida.loni.usc.edu" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"
       xsi:schemaLocation="http://ida.loni.usc.edu /xsds/idaxs_2_0.xsd">
<project xmlns="">
 <projectIdentifier>{project}</projectIdentifier>
 <siteKey>{site}</siteKey>
 <subject>
  <subjectIdentifier>{subject}</subjectIdentifier>
  <researchGroup>{group}</researchGroup>
  <subjectSex>{sex}</subjectSex>
  <visit>
   <visitIdentifier>Screening</visitIdentifier>
   <study>
    <studyIdentifier>{study}</studyIdentifier>
    <subjectAge>{age}</subjectAge>
    <weightKg>{weight}</weightKg>
    <series>
     <seriesIdentifier>{study}</seriesIdentifier>
     <modality>MRI</modality>
     <dateAcquired>{date} 10:48:45.0</dateAcquired>
     <imagingProtocol>
      <imageUID>{image}</imageUID>
      <description>{description}</description>
      <protocolTerm>
       <protocol term="Field Strength">3.0</protocol>
       <protocol term="Weighting">{weighting}</protocol>
      </protocolTerm>
     </imagingProtocol>
    </series>
   </study>
  </visit>
 </subject>
</project>
</idaxs>
"""
ADNI_GROUPS = ("CN", "AD", "MCI", "EMCI", "LMCI", "SMC")
NACC_DIAGNOSES = (1, 4, 3, 2)


def loni_scan(root: Path, project: str, subject: str, description: str, date: str, number: int) -> str:
    """The path of a scan in an export, without its suffix; study and image ids follow from `number`."""
    folder = f"{project}/{subject}/{description}/{date}_10_48_45.0/I{900000 + number}"
    modality = "MRI" if project == "ABIDE" else "MR"
    return f"{folder}/{project}_{subject}_{modality}_{description}_Br_20200101000000000_S{70000 + number}_I{900000 + number}"


def loni_xml(root: Path, project: str, subject: str, description: str, number: int, **fields: str) -> None:
    """The metadata of a scan, beside the folders of the people."""
    about = {"site": "9", "sex": "F", "age": "73.5945", "weight": "62.5", "weighting": "T1", "date": "2016-05-22"} | fields
    text = XML.format(
        project=project, subject=subject, description=description, study=70000 + number, image=900000 + number, **about
    )
    write_text(root, f"{project}/{project}_{subject}_{description}_S{70000 + number}_I{900000 + number}.xml", text)


def adni(root: Path, people: int, clean: bool) -> None:
    """T1 of all (the first person twice), groups CN, AD, MCI, … in turn; person 1 also a FLAIR.

    Not clean: one scan without XML, and one that is spatially normalised.
    """
    for person in range(people):
        subject, group = f"9{person % 100:02d}_S_{9000 + person}", ADNI_GROUPS[person % len(ADNI_GROUPS)]
        sessions = ["2016-05-22", "2017-06-01"][: 2 if person == 0 else 1]
        for visit, date in enumerate(sessions):
            number = 10 * person + visit
            _adni_scan(root, subject, "MPR__GradWarp__B1_Correction__N3__Scaled", date, number, person, "T1", group)
        if person == 1:
            _adni_scan(root, subject, "Axial_T2-FLAIR", sessions[0], 10 * person + 5, person, "FLAIR", group)
    if not clean:
        _adni_scan(root, "999_S_9999", "MP-RAGE", "2015-01-01", 9001, 500, "T1", "")
        _adni_scan(root, "999_S_9999", "Spatially_Normalized__Masked_and_N3", "2015-01-01", 9002, 500, "T1", "CN")


def _adni_scan(root: Path, subject: str, words: str, date: str, number: int, person: int, contrast: str, group: str) -> None:
    write(root, loni_scan(root, "ADNI", subject, words, date, number) + ".nii", head(person, number, contrast))
    if group:
        weighting = "T2" if contrast == "FLAIR" else "T1"
        sex = "FM"[person % 2]
        loni_xml(root, "ADNI", subject, words, number, group=group, sex=sex, date=date, weighting=weighting)


def nacc(root: Path, people: int, clean: bool) -> None:
    """T1 and FLAIR of all, NACCUDSD 1, 4, 3, 2 in turn by the visit ten days later; an opposite visit lies a year before.

    Not clean: a scan without a visit, one without a date, a multi-echo, a contrast that is not kept, one too bright, one flat.
    """
    lines = ["NACCID,NACCADC,NACCUDSD,SEX,BIRTHYR,WEIGHT,VISITYR,VISITMO,VISITDAY,UNUSED"]
    for person in range(people):
        subject, truth = f"NACC9{person:05d}", NACC_DIAGNOSES[person % 4]
        lines += [f"{subject},77,{5 - truth},{1 + person % 2},1945,150,2021,9,30,x",
                  f"{subject},77,{truth},{1 + person % 2},1945,888,2022,10,22,x",
                  f"{subject},77,{truth},{1 + person % 2},1945,888,,,,x"]  # fmt: skip
        for scan, words in enumerate(("Accelerated_Sagittal_MPRAGE__MSV21_", "Sagittal_3D_FLAIR__MSV21_")):
            path = f"SCAN_NIFTI/{subject}/{words}_2022-10-12_14_49_2{scan}.0_I{800000 + 10 * person + scan}.nii.gz"
            write(root, path, head(1000 + person, scan, "FLAIR" if scan else "T1"))
    if not clean:
        for number, (name, image) in enumerate(_nacc_odds().items()):
            write(root, f"SCAN_NIFTI/{name}_I{899000 + number}.nii.gz", image)
        lines.append("NACC999998,77,1,1,1950,150,2022,1,1,x")
    write_text(root, "investigator_nacc69.csv", "\n".join(lines) + "\n")


def _nacc_odds() -> dict:
    plain = head(1900)
    return {
        "NACC999999/MPRAGE_2022-01-01_10_00_00.0": head(1901),
        "NACC999998/Sagittal_3D_T1": head(1902),
        "NACC999998/Axial_3D_ME_T2_GRE__MSV21__2022-01-02_10_00_00.0": head(1903),
        "NACC999998/ASL_2022-01-02_11_00_00.0": head(1904),
        "NACC999998/MPRAGE_bright_2022-01-02_12_00_00.0": changed(plain, lambda v: 20 * v + 1500 * (v > 0)),
        "NACC999998/MPRAGE_flat_2022-01-02_13_00_00.0": changed(plain, lambda v: 0.02 * v),
    }


def oasis3(root: Path, people: int, clean: bool) -> None:
    """T1 of all at day 200 (the first person also at 900) and T2 of person 1; CDRTOT 0 and 1 in turn, nearest at day 190.

    Not clean: a functional scan, SWI in its folder, time of flight by name, a scan of a person without exams.
    """
    exams = ["OASISID,OASIS_session_label,days_to_visit,age at visit,MMSE,CDRSUM,CDRTOT"]
    demographics = ["OASISID,Subject_accession,AgeatEntry,GENDER"]
    for person in range(people):
        subject = f"OAS39{person:03d}"
        demographics.append(f"{subject},CENTRAL_S0,{60 + person}.5,{1 + person % 2}")
        exams += [
            f"{subject},{subject}_UDSb4_d0000,0,60,29,0,0.5",
            f"{subject},{subject}_UDSb4_d0190,0190,61,29,0,{person % 2}",
        ]
        _oasis_scan(root, subject, 200, "anat2", "run-01_T1w", 2000 + person)
        if person == 0:
            _oasis_scan(root, subject, 900, "anat3", "T1w", 2000, scan=1)
        if person == 1:
            _oasis_scan(root, subject, 200, "anat4", "T2w", 2001, contrast="T2")
    if not clean:
        odds = (("func1", "task-rest_run-01_bold"), ("swi1", "run-01_T2star"), ("anat9", "acq-TOF_angio"), ("anat1", "T1w"))
        for scan, (folder, name) in enumerate(odds):
            _oasis_scan(root, "OAS39999", 10, folder, name, 2999, scan=scan)
    write_text(root, "OASIS3_UDSb4_cdr.csv", "\n".join(exams) + "\n")
    write_text(root, "OASIS3_demographics.csv", "\n".join(demographics) + "\n")


def _oasis_scan(
    root: Path, subject: str, day: int, folder: str, name: str, person: int, scan: int = 0, contrast: str = "T1"
) -> None:
    stem = f"{subject}_MR_d{day:04d}/{folder}/sub-{subject}_ses-d{day:04d}_{name}"
    write(root, f"{stem}.nii.gz", head(person, scan, contrast))
    write_text(root, f"{stem}.json", '{"SeriesDescription": "made up", "EchoTime": 0.003}')
