"""Small replicas of published data sets: their file names and the schema of their tables, with made-up ids and small heads.

    root = build_replica("adni", tmp_path / "adni", people=6)

A replica holds scans that its adapter keeps and, except with `clean=True`, one of each kind that it excludes. Labels alternate
from person to person; what each scan is meant to be stands in the docstring of the function that lays it out.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.replicas import ageing, research, tumours

REPLICAS: dict[str, Callable[[Path, int, bool], None]] = {
    "adni": ageing.adni,
    "nacc": ageing.nacc,
    "oasis3": ageing.oasis3,
    "ppmi": research.ppmi,
    "abide1": research.abide1,
    "ixi": research.ixi,
    "mood": research.mood,
    "bids": research.bids,
    "folder": research.folder,
    "brats2024": tumours.brats2024,
    "ucsf_pdgm": tumours.ucsf_pdgm,
}


def build_replica(name: str, root: Path, people: int = 4, clean: bool = False) -> Path:
    """Lay out the replica of a data set, by its adapter's name, below a folder; returns the folder.

    Args:
        name: a key of `REPLICAS`.
        root: made if needed.
        people: how many; each has one session, the first one two where the data set has sessions.
        clean: leave out what the adapter would exclude.
    """
    root.mkdir(parents=True, exist_ok=True)
    REPLICAS[name](root, people, clean)
    return root
