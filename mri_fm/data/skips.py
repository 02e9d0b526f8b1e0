"""Bad samples that were replaced: named, counted over all ranks of a run, and stopped at a budget."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mri_fm.errors import UserError

_log = logging.getLogger(__name__)
_NAMED = 5  # bad samples that an error spells out


@dataclass(frozen=True, order=True)
class Skip:
    """A sample that could not be used at a position, and why."""

    position: int
    key: str
    shard: str
    reason: str

    def __str__(self) -> str:
        return f"{self.key} in {self.shard} ({self.reason})"


class SkipCount:
    """The skips of a run. A sample that is bad in every epoch is skipped, and counted, in every epoch."""

    def __init__(self, budget: int, root: str | Path, *, quiet: bool = False) -> None:
        """Allow `budget` skips of samples of the corpus at `root`; `quiet`: another rank logs them."""
        self._budget, self._root, self._quiet = budget, root, quiet
        self.total = 0
        self._seen: list[Skip] = []

    def add(self, skips: Iterable[Skip]) -> None:
        """Count skips that happened on any rank, one for all views of a position; all ranks give the same ones.

        Raises:
            UserError: more than the budget, with the names of those that this process has seen.
        """
        new = sorted(set(skips))
        self.total += len(new)
        self._seen += new
        for skip in () if self._quiet else new:
            _log.warning("position %d: skipped %s", skip.position, skip)
        if self.total > self._budget:
            raise UserError(
                f"{self.total} bad samples exceed data.skip_budget={self._budget}: {listed(self._seen)}; "
                f"repair {self._root} or raise data.skip_budget"
            )


def listed(skips: Sequence[Skip]) -> str:
    """The distinct samples among `skips`, the first few by name."""
    named = list(dict.fromkeys(map(str, skips)))
    rest = f" and {len(named) - _NAMED} more" if len(named) > _NAMED else ""
    return ", ".join(named[:_NAMED]) + rest
