"""NACC/SCAN: `NACC123456/Sagittal_3D_FLAIR_2022-10-12_14_49_23.0_I10445020.nii.gz`, and investigator_naccNN.csv.

Each scan takes the visit of its person nearest in date. Label `naccudsd`: 1 normal, 2 impaired but not MCI, 3 MCI, 4 dementia;
a scan without a visit, or whose visit has no such value, serves pretraining only. `visit_days` is how long after the scan the
visit was. Kept are T1, T2, MPRAGE, FLAIR and IR by name, without multi-echo images, within limits on the intensities.
"""

from __future__ import annotations

import re

from mri_fm.volume.discover import Input
from preprocessing.datasets.adapter import Adapter, Describe, IntensityRule, Knowledge, Tree, diagnosis, without_blanks
from preprocessing.datasets.contrast import contrast_of
from preprocessing.datasets.loni import day_in, person_labels
from preprocessing.datasets.visits import Visit, day_number, nearest_visit, visits_by_person

TABLE = r"investigator_nacc\d+\.csv"
COLUMNS = ("NACCID", "NACCUDSD", "SEX", "BIRTHYR", "WEIGHT", "VISITYR", "VISITMO", "VISITDAY")
KEPT = re.compile(r"T1|T2|MPRAGE|FLAIR|(?<![A-Z])IR(?![A-Z])", re.IGNORECASE)
MULTI_ECHO = ("_ME_", "_3TE_")
INTENSITY = IntensityRule(max_mean=2000, min_std=10)
DIAGNOSES = ("1", "2", "3", "4")
KG_PER_POUND = 0.45359237
POUNDS = range(50, 401)  # other values are NACC's codes for unknown


def open_nacc(tree: Tree) -> Describe:
    """See `Adapter.open`."""
    rows = tree.table(TABLE, COLUMNS, ("NACCADC",))
    visits = visits_by_person((row["NACCID"], day_number(row["VISITYR"], row["VISITMO"], row["VISITDAY"]), row) for row in rows)

    def describe(item: Input, match: re.Match[str]) -> Knowledge:
        day = day_in(match[0])
        visit = nearest_visit(visits.get(match["subject"], []), day)
        return Knowledge(
            "NACC",
            match["subject"],
            tree.session(f"NACC {match['subject']}", f"day {day}") if day else "",
            contrast_of(match["description"], {}),
            scan_uid=match["image"],
            labels=_labels(visit, day),
            excluded=_rule(match["description"]),
            intensity=INTENSITY,
        )

    return describe


def _rule(description: str) -> str:
    if any(words in f"_{description}_" for words in MULTI_ECHO):
        return "multi-echo"
    return "" if KEPT.search(description) else "neither T1, T2, MPRAGE, FLAIR nor IR"


def _labels(visit: Visit | None, day: int | None) -> dict[str, str]:
    if visit is None or day is None:
        return diagnosis("naccudsd", "")
    row = visit.row
    value = row["NACCUDSD"].removesuffix(".0")
    pounds = row["WEIGHT"].removesuffix(".0")
    weight = str(int(pounds) * KG_PER_POUND) if pounds.isdecimal() and int(pounds) in POUNDS else ""
    born = day_number(row["BIRTHYR"], "7", "1")
    age = str((day - born) // 365.25) if born else ""
    found = {"visit_days": str(visit.day - day), "site": row["NACCADC"]}
    labels = diagnosis("naccudsd", value if value in DIAGNOSES else "")
    return labels | person_labels(row["SEX"], age, weight) | without_blanks(found)


ADAPTER = Adapter(
    "nacc",
    "NACC123456/*DESCRIPTION_DATE_TIME_I10445020.nii.gz, investigator_naccNN.csv anywhere",
    re.compile(r"(?:^|/)(?P<subject>NACC\d{6})/(?:[^/]+/)*(?P<description>[^/]+?)"
               r"(?:_\d{4}-\d{2}-\d{2}[\d_.]*)?_(?P<image>I\d+)(?![0-9])[^/]*$"),
    open_nacc,
)  # fmt: skip
