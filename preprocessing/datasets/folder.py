"""Any folder: people get pseudonyms, and `labels.csv` at the raw root may tell more of each scan (`preprocessing.labels`)."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from mri_fm.volume.discover import Input, image_stem
from preprocessing.datasets.adapter import Adapter, Describe, Knowledge, Tree
from preprocessing.datasets.contrast import contrast_of
from preprocessing.datasets.sidecar import read_sidecar

UNKNOWN_DATASET = "unknown"


def open_folder(tree: Tree) -> Describe:
    """A pseudonym of the patient, else of the path without its words for the contrast, so that T1 and T2 stay together."""

    def describe(item: Input, match: re.Match[str]) -> Knowledge:
        stem = PurePosixPath(image_stem(item.source_path))
        contrast = contrast_of(stem.name, read_sidecar(tree.raw, item))
        return Knowledge(UNKNOWN_DATASET, tree.pseudonym(_identity(item, stem)), contrast=contrast)

    return describe


def _identity(item: Input, stem: PurePosixPath) -> str:
    if item.person:
        return f"person {item.person}"
    words = [word for word in re.split(r"[_\-. ]+", stem.name) if word and not contrast_of(word, {})]
    return f"path {stem.parent / '-'.join(words)}" if words else f"path {stem.parent}"


ADAPTER = Adapter("folder", "any scans in any folders, labels.csv at the root", re.compile(""), open_folder)
