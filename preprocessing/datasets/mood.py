"""MOOD, the brains: `brain_train/00123.nii.gz`, T1; the file's stem names both person and scan. Abdomens are left out."""

from __future__ import annotations

import re

from mri_fm.volume.discover import Input
from preprocessing.datasets.adapter import Adapter, Describe, Knowledge, Tree


def open_mood(tree: Tree) -> Describe:
    """See `Adapter.open`."""

    def describe(item: Input, match: re.Match[str]) -> Knowledge:
        excluded = "" if match["organ"] == "brain" else "no brain"
        return Knowledge("MOOD", match["stem"], contrast="T1", scan_uid=match["stem"], excluded=excluded)

    return describe


ADAPTER = Adapter(
    "mood",
    "brain_train/00123.nii.gz",
    re.compile(r"(?:^|/)(?P<organ>brain|abdom)_train/(?:[^/]+/)*(?P<stem>\d{5})\.nii(?:\.gz)?$"),
    open_mood,
)
