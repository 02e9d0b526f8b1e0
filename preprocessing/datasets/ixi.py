"""IXI: `IXI159-Guys-0810-T1.nii.gz` in any folder; `IXI.csv`, its table saved from IXI.xls as CSV, if there is one.

Published splits name a person's T1, `I159`; scans of other contrasts are named after it, `I159_T2`.
"""

from __future__ import annotations

import re

from mri_fm.volume.discover import Input
from preprocessing.datasets.adapter import Adapter, Describe, Knowledge, Tree
from preprocessing.datasets.contrast import contrast_of
from preprocessing.datasets.loni import person_labels

TABLE, COLUMNS, FURTHER = r"IXI\.csv", ("IXI_ID",), ("SEX_ID (1=m, 2=f)", "AGE")


def open_ixi(tree: Tree) -> Describe:
    """See `Adapter.open`."""
    people = {row["IXI_ID"].removesuffix(".0").zfill(3): row for row in tree.table(TABLE, COLUMNS, FURTHER)}

    def describe(item: Input, match: re.Match[str]) -> Knowledge:
        row, series = people.get(match["subject"], {}), match["series"]
        sex = row.get("SEX_ID (1=m, 2=f)", "").removesuffix(".0")
        return Knowledge(
            "IXI",
            match["subject"],
            contrast=contrast_of(series, {}),
            scan_uid=f"I{match['subject']}" if series == "T1" else f"I{match['subject']}_{series}",
            labels={"site": match["site"]} | person_labels(sex, row.get("AGE", ""), ""),
        )

    return describe


ADAPTER = Adapter(
    "ixi",
    "IXI159-Guys-0810-T1.nii.gz in any folder, IXI.csv (from IXI.xls) anywhere",
    re.compile(r"(?:^|/)IXI(?P<subject>\d{3})-(?P<site>Guys|HH|IOP)-\d{4}-(?P<series>[A-Z0-9]+(?:-\d+)?)\.[^/]*$"),
    open_ixi,
)
