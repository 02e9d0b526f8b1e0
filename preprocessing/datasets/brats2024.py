"""BraTS 2024, adult glioma after treatment: `BraTS-GLI-02597-100/BraTS-GLI-02597-100-t1n.nii.gz`.

t1n and t1c are T1, t2w and t2f are T2; segmentations are left out. The brains are stripped of the skull already. Published
splits name the four images of a session by the session; the label `series` tells them apart.
"""

from __future__ import annotations

import re

from mri_fm.volume.discover import Input
from preprocessing.datasets.adapter import Adapter, Describe, Knowledge, Tree

CONTRASTS = {"t1n": "T1", "t1c": "T1", "t2w": "T2", "t2f": "T2"}


def open_brats2024(tree: Tree) -> Describe:
    """See `Adapter.open`."""

    def describe(item: Input, match: re.Match[str]) -> Knowledge:
        series = match["series"]
        return Knowledge(
            "BraTS-2024",
            match["subject"],
            match["session"],
            CONTRASTS.get(series, ""),
            scan_uid=match["uid"],
            labels={"series": series},
            excluded="segmentation" if series == "seg" else "",
        )

    return describe


ADAPTER = Adapter(
    "brats2024",
    "BraTS-GLI-02597-100-t1n.nii.gz (t1n, t1c, t2w, t2f) in any folder",
    re.compile(r"(?:^|/)(?P<uid>BraTS-GLI-(?P<subject>\d{5})-(?P<session>\d{3}))-(?P<series>t1n|t1c|t2w|t2f|seg)\.[^/]*$"),
    open_brats2024,
)
