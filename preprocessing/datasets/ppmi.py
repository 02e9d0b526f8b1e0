"""PPMI, as exported by LONI with the metadata of each scan as XML.

Label `ppmi_group`: Control 0, PD 1, Prodromal 2, SWEDD 3, other 4. T2 images resampled into the space of the T1, and
spatially normalised images, are left out.
"""

from __future__ import annotations

import re

from mri_fm.volume.discover import Input
from preprocessing.datasets.adapter import Adapter, Describe, Knowledge, Tree, diagnosis
from preprocessing.datasets.contrast import contrast_of
from preprocessing.datasets.loni import metadata_files, person_labels, read_metadata, scan_pattern

GROUPS = {"CONTROL": "0", "PD": "1", "PRODROMAL": "2", "SWEDD": "3"}
OTHER_GROUP = "4"
LEFT_OUT = {"T2_in_T1-anatomical_space": "T2 in the space of the T1", "Spatially_Normalized": "spatially normalised"}


def open_ppmi(tree: Tree) -> Describe:
    """See `Adapter.open`."""
    xml = metadata_files(tree)

    def describe(item: Input, match: re.Match[str]) -> Knowledge:
        found = read_metadata(xml.get(match["image"]))
        group = GROUPS.get(found.group.upper(), OTHER_GROUP) if found.group else ""
        return Knowledge(
            "PPMI",
            match["subject"],
            tree.session(f"PPMI {match['subject']}", match["date"]),
            contrast_of(match["description"], {}) or contrast_of(found.weighting, {}),
            scan_uid=match["image"],
            labels=diagnosis("ppmi_group", group) | person_labels(found.sex, found.age, found.weight),
            excluded=next((rule for words, rule in LEFT_OUT.items() if words in item.files[0]), ""),
        )

    return describe


ADAPTER = Adapter(
    "ppmi",
    "LONI export: SUBJECT/DESCRIPTION/DATE/IMAGE/PPMI_3101_MR_*_I405842.nii (or DICOM), XML anywhere",
    scan_pattern("PPMI", r"\d{4,6}"),
    open_ppmi,
)
