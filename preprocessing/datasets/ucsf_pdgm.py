"""UCSF-PDGM: `UCSF-PDGM-0004_nifti/UCSF-PDGM-0004_T1c.nii.gz`, and UCSF-PDGM-metadata*.csv.

Labels `tumor_grade`, the WHO CNS grade, 2, 3 or 4; `survival_days` and `died`, where both are known. Kept are T1, T1c, T2,
FLAIR, DWI and ADC, each with and without bias correction; segmentations, perfusion, SWI and diffusion tensors are left out. The
table names people with three digits, the files with four; the subject is written as in the table, the scan as in the file,
and both as in published splits.
"""

from __future__ import annotations

import re

from mri_fm.volume.discover import Input
from preprocessing.datasets.adapter import Adapter, Describe, Knowledge, Tree, diagnosis
from preprocessing.datasets.contrast import contrast_of
from preprocessing.datasets.loni import person_labels
from preprocessing.datasets.table import Row

TABLE, COLUMNS, FURTHER = r"UCSF-PDGM-metadata.*\.csv", ("ID", "WHO CNS Grade"), ("Sex", "Age at MRI", "OS", "1-dead 0-alive")
KEPT = re.compile(r"(T1|T1c|T2|FLAIR|DWI|ADC)(_bias)?")
GRADES = ("2", "3", "4")


def open_ucsf_pdgm(tree: Tree) -> Describe:
    """See `Adapter.open`."""
    people = {row["ID"]: row for row in tree.table(TABLE, COLUMNS, FURTHER)}

    def describe(item: Input, match: re.Match[str]) -> Knowledge:
        subject, series = f"UCSF-PDGM-{int(match['number']):03d}", match["series"]
        row = people.get(subject) or people.get(f"UCSF-PDGM-{match['number']}") or {}
        return Knowledge(
            "UCSF-PDGM",
            subject,
            match["follow_up"] or "",
            contrast_of(series, {}),
            scan_uid=f"{match['uid']}_{series}",
            labels=_labels(row) | ({"series": series} if KEPT.fullmatch(series) else {}),
            excluded=_rule(series),
        )

    return describe


def _rule(series: str) -> str:
    if "segmentation" in series:
        return "segmentation"
    return "" if KEPT.fullmatch(series) else "neither T1, T1c, T2, FLAIR, DWI nor ADC"


def _labels(row: Row) -> dict[str, str]:
    grade = row.get("WHO CNS Grade", "").removesuffix(".0")
    days, died = (row.get(name, "").removesuffix(".0") for name in ("OS", "1-dead 0-alive"))
    survival = {"survival_days": days, "died": died} if days.isdecimal() and died in ("0", "1") else {}
    person = person_labels(row.get("Sex", ""), row.get("Age at MRI", ""), "")
    return diagnosis("tumor_grade", grade if grade in GRADES else "") | survival | person


ADAPTER = Adapter(
    "ucsf_pdgm",
    "UCSF-PDGM-0004_nifti/UCSF-PDGM-0004_T1c.nii.gz, UCSF-PDGM-metadata*.csv anywhere",
    re.compile(r"(?:^|/)(?P<uid>UCSF-PDGM-(?P<number>\d{4})(?:_(?P<follow_up>FU\d+d))?)_(?P<series>[A-Za-z][^/.]*)\.[^/]*$"),
    open_ucsf_pdgm,
)
