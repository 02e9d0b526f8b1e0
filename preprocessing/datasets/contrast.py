"""The contrast of a scan by keywords."""

from __future__ import annotations

import re
from collections.abc import Mapping

CONTRAST_FIELDS = ("SeriesDescription", "ProtocolName", "SequenceName", "PulseSequenceName")
CONTRAST_RULES = (
    ("FLAIR", re.compile(r"flair")),
    ("T2STAR", re.compile(r"\bt2\*|\b(t2)?star(w)?\b|\bgre\b")),
    ("T1", re.compile(r"mp ?rage|fspgr|\bir\b|\bt1(w|n|c|ce|gd)?\b")),
    ("T2", re.compile(r"\bt2(w|f)?\b|\bspace\b")),
)


def contrast_of(name: str, fields: Mapping[str, str]) -> str:
    """The contrast by keywords of a file name, else of a header's or sidecar's descriptions; "" if neither tells."""
    for text in (name, *(fields[f] for f in CONTRAST_FIELDS if f in fields)):
        words = re.sub(r"[^a-z0-9*]+", " ", text.lower())
        for contrast, rule in CONTRAST_RULES:
            if rule.search(words):
                return contrast
    return ""
