"""Progress bars of what takes long; only where somebody looks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


def progress(
    items: Iterable[Item], what: str, total: int | None = None, *, unit: str = "it", shown: bool = True
) -> Iterable[Item]:
    """The items, with a bar on a terminal that vanishes at the end.

    Args:
        items: to go through.
        what: stands before the bar.
        total: how many; None: ask the items.
        unit: what they are.
        shown: False on ranks that keep quiet.
    """
    return tqdm(items, desc=f"  {what}", total=total, unit=unit, leave=False, disable=None if shown else True)
