"""Rules that say when somebody should look at a run: collapse, loss spikes, waiting for data, stalls.

Each rule compares a logged line with those before it; thresholds are `observe.alerts`. An alert is raised when its
condition begins, and again only after it has ended.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from mri_fm.run_config import AlertConfig

HISTORY = 32  # logged lines that a median is taken over
_LEAST = 8  # of them before anything is said
_IN_A_ROW = 3  # lines over which waiting for data must last

Record = Mapping[str, float | int | None]


class Alert(NamedTuple):
    """What is wrong ("collapse", "loss spike", "data wait", "stall") and one line about it."""

    title: str
    text: str


class Alerts:
    """Looks at every logged line of a run, in order."""

    def __init__(self, config: AlertConfig) -> None:
        """Take the thresholds."""
        self._config = config
        self._losses: deque[float] = deque(maxlen=HISTORY)
        self._times: deque[float] = deque(maxlen=HISTORY)
        self._largest_std = 0.0
        self._waiting = 0
        self._active: set[str] = set()

    def check(self, record: Record) -> list[Alert]:
        """The alerts that begin with this line."""
        found = {alert.title: alert for alert in self._conditions(record)}
        begun = [alert for title, alert in found.items() if title not in self._active]
        judged = {"loss spike", "data wait", "stall"} | ({"collapse"} if "feature_std" in record else set())
        self._active = (self._active - judged) | set(found)
        return begun

    def _conditions(self, record: Record) -> Iterator[Alert]:
        yield from self._collapse(record)
        yield from self._loss_spike(record)
        yield from self._data_wait(record)
        yield from self._slow(record)

    def _collapse(self, record: Record) -> Iterator[Alert]:
        deviation, rank = record.get("feature_std"), record.get("effective_rank")
        if deviation is not None:
            self._largest_std = max(self._largest_std, deviation)
            if deviation < self._config.collapse * self._largest_std:
                text = (
                    f"feature_std is {deviation:.3g}, below {self._config.collapse:g} of its largest, {self._largest_std:.3g}"
                )
                yield Alert("collapse", text)
                return
        if rank is not None and rank < self._config.least_rank:
            yield Alert("collapse", f"effective_rank is {rank:.3g}, below {self._config.least_rank:g}")

    def _loss_spike(self, record: Record) -> Iterator[Alert]:
        loss, factor = record.get("loss"), self._config.loss_spike
        if loss is None:
            return
        usual = statistics.median(self._losses) if len(self._losses) >= _LEAST else None
        self._losses.append(loss)
        if factor and usual is not None and loss > factor * usual:
            yield Alert(
                "loss spike", f"the loss is {loss:.4g}, more than {factor:g} × {usual:.4g}, the median of the lines before"
            )

    def _data_wait(self, record: Record) -> Iterator[Alert]:
        wait, step, share = record.get("data_wait"), record.get("step_time"), self._config.data_wait
        if wait is None or not step:
            return
        self._waiting = self._waiting + 1 if share and wait > share * step else 0
        if self._waiting >= _IN_A_ROW:
            yield Alert("data wait", f"{wait:.3g} s of a step's {step:.3g} s go by waiting for samples: docs/sources.md")

    def _slow(self, record: Record) -> Iterator[Alert]:
        step, factor = record.get("step_time"), self._config.stall
        if step is None:
            return
        usual = statistics.median(self._times) if len(self._times) >= _LEAST else None
        self._times.append(step)
        if factor and usual is not None and step > factor * usual:
            yield Alert(
                "stall", f"a step takes {step:.3g} s, more than {factor:g} × {usual:.3g} s, the median of the lines before"
            )
