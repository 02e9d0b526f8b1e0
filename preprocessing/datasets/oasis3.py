"""OASIS-3, in BIDS or as its download script lays it out (`OAS31092_MR_d0203/anat2/sub-OAS31092_ses-d0203_T2w.nii.gz`).

Days count from a person's entry. Label `cdrtot`: CDRTOT of the exam nearest by days_to_visit in OASIS3_UDSb4_cdr.csv;
`visit_days` is how long after the scan it was. Left out are the folders fmap, func, swi and dwi, and time-of-flight, BOLD,
SWI, diffusion, perfusion and field maps by name.
"""

from __future__ import annotations

import re

from mri_fm.volume.discover import Input
from preprocessing.datasets.adapter import Adapter, Describe, Knowledge, Tree, diagnosis
from preprocessing.datasets.contrast import contrast_of
from preprocessing.datasets.loni import person_labels
from preprocessing.datasets.sidecar import read_sidecar
from preprocessing.datasets.visits import Visit, nearest_visit, visits_by_person

EXAMS, EXAM_COLUMNS = r"OASIS3_UDSb4_cdr\.csv", ("OASISID", "days_to_visit", "CDRTOT")
PEOPLE, PEOPLE_COLUMNS = r"OASIS3_demographics\.csv", ("OASISID", "AgeatEntry", "GENDER")
FOLDERS = re.compile(r"/(fmap|func|swi|dwi)\d*/")
NAMES = re.compile(r"\b(tof|angio|bold|swi|dti|dwi|asl|fieldmap|field mapping|phasediff|magnitude\d?)\b")
DAYS_PER_YEAR = 365.25


def open_oasis3(tree: Tree) -> Describe:
    """See `Adapter.open`."""
    exams = visits_by_person((r["OASISID"], _day(r["days_to_visit"]), r) for r in tree.table(EXAMS, EXAM_COLUMNS))
    people = {row["OASISID"]: row for row in tree.table(PEOPLE, PEOPLE_COLUMNS)}

    def describe(item: Input, match: re.Match[str]) -> Knowledge:
        fields = read_sidecar(tree.raw, item)
        day = int(match["day"])
        person = people.get(match["subject"], {})
        age = str(float(person["AgeatEntry"]) + day / DAYS_PER_YEAR) if person.get("AgeatEntry") else ""
        return Knowledge(
            "OASIS-3",
            match["subject"],
            f"d{match['day']}",
            contrast_of(match["rest"], fields),
            scan_uid=f"{match['subject']}_d{match['day']}_{match['rest']}",
            labels=_labels(nearest_visit(exams.get(match["subject"], []), day), day)
            | person_labels(person.get("GENDER", ""), age, ""),
            excluded=_rule(item.files[0], match["rest"], fields.get("SeriesDescription", "")),
        )

    return describe


def _rule(path: str, name: str, description: str) -> str:
    folder = FOLDERS.search(f"/{path}")
    if folder:
        return f"folder {folder[1]}"
    found = NAMES.search(re.sub(r"[^a-z0-9]+", " ", f"{name} {description}".lower()))
    return f"{found[1]} by name" if found else ""


def _labels(exam: Visit | None, day: int) -> dict[str, str]:
    if exam is None:
        return diagnosis("cdrtot", "")
    return diagnosis("cdrtot", exam.row["CDRTOT"]) | {"visit_days": str(exam.day - day)}


def _day(text: str) -> int | None:
    try:
        return int(float(text))
    except (ValueError, OverflowError):
        return None


ADAPTER = Adapter(
    "oasis3",
    "any/sub-OAS31092_ses-d0203_T2w.nii.gz, OASIS3_UDSb4_cdr.csv and OASIS3_demographics.csv anywhere",
    re.compile(r"(?:^|/)sub-(?P<subject>OAS3\d{4})_(?:ses|sess)-d(?P<day>\d{4,5})_(?P<rest>[^/]+?)\.[A-Za-z][^/]*$"),
    open_oasis3,
)
