"""ADNI, as exported by LONI with the metadata of each scan as XML.

Label `adni_group`: CN 0, MCI 1, AD 2, EMCI 3, LMCI 4, other 5. Spatially normalised images are left out.
"""

from __future__ import annotations

import re

from mri_fm.volume.discover import Input
from preprocessing.datasets.adapter import Adapter, Describe, Knowledge, Tree, diagnosis
from preprocessing.datasets.contrast import contrast_of
from preprocessing.datasets.loni import metadata_files, person_labels, read_metadata, scan_pattern

GROUPS = {"CN": "0", "MCI": "1", "AD": "2", "EMCI": "3", "LMCI": "4"}
OTHER_GROUP = "5"
NORMALISED = "Spatially_Normalized"


def open_adni(tree: Tree) -> Describe:
    """See `Adapter.open`."""
    xml = metadata_files(tree)

    def describe(item: Input, match: re.Match[str]) -> Knowledge:
        found = read_metadata(xml.get(match["image"]))
        group = GROUPS.get(found.group.upper(), OTHER_GROUP) if found.group else ""
        return Knowledge(
            "ADNI",
            match["subject"],
            tree.session(f"ADNI {match['subject']}", match["date"]),
            contrast_of(match["description"], {}) or contrast_of(found.weighting, {}),
            scan_uid=match["image"],
            labels=diagnosis("adni_group", group) | person_labels(found.sex, found.age, found.weight),
            excluded="spatially normalised" if NORMALISED in item.files[0] else "",
        )

    return describe


ADAPTER = Adapter(
    "adni",
    "LONI export: SUBJECT/DESCRIPTION/DATE/IMAGE/ADNI_003_S_1257_MR_*_I45108.nii (or DICOM), XML anywhere",
    scan_pattern("ADNI", r"\d{3}_S_\d{4,5}"),
    open_adni,
)
