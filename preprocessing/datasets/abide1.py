"""ABIDE I, as exported by LONI or by INDI (`CMU_a/0050642/session_1/anat_1/mprage.nii.gz`), and its phenotypic table.

Label `autism`: 1 for autism, 0 for a control (DX_GROUP 1 and 2). Functional scans are left out.
"""

from __future__ import annotations

import re

from mri_fm.volume.discover import Input
from preprocessing.datasets.adapter import Adapter, Describe, Knowledge, Tree, diagnosis, without_blanks
from preprocessing.datasets.contrast import contrast_of
from preprocessing.datasets.loni import person_labels, scan_pattern
from preprocessing.datasets.table import Row

TABLE, COLUMNS = r"Phenotypic_V1.*\.csv", ("SUB_ID", "SITE_ID", "DX_GROUP", "AGE_AT_SCAN", "SEX")
AUTISM = {"1": "1", "2": "0"}
SUBJECT = r"5[01]\d{3}"


def open_abide1(tree: Tree) -> Describe:
    """See `Adapter.open`."""
    people = {row["SUB_ID"].lstrip("0"): row for row in tree.table(TABLE, COLUMNS)}

    def describe(item: Input, match: re.Match[str]) -> Knowledge:
        found = match.groupdict()
        subject = found["subject"] or found["indi"]
        description = found["description"] or found["name"]
        return Knowledge(
            "ABIDE-I",
            subject,
            found["session"] or "",
            contrast_of(description, {}),
            scan_uid=found["image"] or f"{subject}_{found['session']}_{found['run']}",
            labels=_labels(people.get(subject, {})),
            excluded="functional" if "rest" in (found["run"] or found["description"]).lower() else "",
        )

    return describe


def _labels(row: Row) -> dict[str, str]:
    labels = diagnosis("autism", AUTISM.get(row.get("DX_GROUP", "").removesuffix(".0"), ""))
    person = person_labels(row.get("SEX", "").removesuffix(".0"), row.get("AGE_AT_SCAN", ""), "")
    return labels | person | without_blanks({"site": row.get("SITE_ID", "")})


INDI = rf"(?:^|/)00(?P<indi>{SUBJECT})/(?P<session>session_\d+)/(?P<run>[a-z]+_\d+)/(?:[^/]+/)*(?P<name>[^/]+)$"

ADAPTER = Adapter(
    "abide1",
    "LONI export (ABIDE_50002_MRI_MP-RAGE_*_I328631.nii) or INDI's 0050002/session_1/anat_1/, Phenotypic_V1*.csv anywhere",
    re.compile(f"(?:{scan_pattern('ABIDE', SUBJECT).pattern})|(?:{INDI})"),
    open_abide1,
)
