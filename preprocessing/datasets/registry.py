"""All adapters, in the order in which they are asked about a scan: the particular before the general."""

from __future__ import annotations

import re

from preprocessing.datasets import abide1, adni, bids, brats2024, folder, ixi, mood, nacc, oasis3, ppmi, ucsf_pdgm
from preprocessing.datasets.adapter import Adapter

MODULES = (adni, ppmi, abide1, nacc, oasis3, brats2024, ucsf_pdgm, ixi, mood, bids, folder)
ADAPTERS: dict[str, Adapter] = {module.ADAPTER.name: module.ADAPTER for module in MODULES}
"""Adapters by name. The last one claims every path."""


def claim(path: str) -> tuple[Adapter, re.Match[str]]:
    """The first adapter whose layout a path has, and the match of its pattern."""
    for adapter in ADAPTERS.values():
        match = adapter.pattern.search(path)
        if match:
            return adapter, match
    raise AssertionError("the last adapter claims every path")
