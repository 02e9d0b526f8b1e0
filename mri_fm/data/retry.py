"""Try again, with waits that grow: the one policy for reads that may succeed later.

What a sample costs in the worst case is bounded: `Backoff.total_s` plus the time of the tries themselves must stay well under
`data.timeout_s`, after which a read counts as stuck.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

Result = TypeVar("Result")
_SPREAD = 0.6180339887498949  # golden ratio: consecutive process ids fall far apart


@dataclass(frozen=True)
class Backoff:
    """`tries` in all; before the second one `first_s` seconds pass, then twice as long each time, at most `longest_s`."""

    tries: int
    first_s: float
    longest_s: float = 5.0

    def waits(self) -> Iterator[float]:
        """Seconds before each further try."""
        return (min(self.first_s * 2**number, self.longest_s) for number in range(self.tries - 1))

    @property
    def total_s(self) -> float:
        """Seconds waited when every try fails."""
        return sum(self.waits())


STORED = Backoff(tries=2, first_s=0.02)
"""For a payload that came and is wrong (checksum, short read): once more, before another sample takes its place."""

NETWORK = Backoff(tries=5, first_s=0.2)
"""For a request that was not answered (time-out, connection refused or reset, server error): 3 s of waits in all."""


def retried(action: Callable[[], Result], transient: tuple[type[Exception], ...], backoff: Backoff) -> Result:
    """The result of `action`, which is called again after an exception of the `transient` kinds.

    Args:
        action: reads something; nothing is kept of a try that failed.
        transient: what may go away by itself; anything else is raised at once.
        backoff: how often, and how long to wait between.

    Raises:
        Exception: the last try's.
    """
    for wait in backoff.waits():
        try:
            return action()
        except transient:
            time.sleep(wait * _jitter())
    return action()


def _jitter() -> float:
    """In [0.5, 1), by process, so that ranks which failed together do not come back together."""
    return 0.5 + os.getpid() * _SPREAD % 1 / 2
