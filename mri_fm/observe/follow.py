"""A run that is being written, as far as its folder tells: its configuration, its lines and its events so far."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, NamedTuple

from mri_fm.config import config_from_yaml
from mri_fm.observe.events import EVENTS_FILE
from mri_fm.observe.lines import Tail
from mri_fm.observe.recorder import METRICS_FILE

RECENT = 20  # logged lines that the speed is taken over


class News(NamedTuple):
    """What has been written since the last look, in order."""

    records: list[dict[str, Any]]
    events: list[dict[str, Any]]


class FollowedRun:
    """A run folder, looked at again and again.

    Attributes:
        config: of the run; read again when it is started again.
        records: logged steps, ascending; what a resumed run makes anew replaces what it had made before.
        events: starts, ends, faults and alerts, in order.
    """

    def __init__(self, folder: Path) -> None:
        """Read what there is.

        Raises:
            UserError: no run folder.
        """
        self.folder = folder
        self.config = config_from_yaml(folder / "config.yaml")
        self.records: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []
        self._metrics, self._happened = Tail(folder / METRICS_FILE), Tail(folder / EVENTS_FILE)

    def look(self) -> News:
        """Take in what has been written since the last look."""
        events, records = self._happened.read(), self._metrics.read()
        if any(event["kind"] == "start" for event in events):
            self.config = config_from_yaml(self.folder / "config.yaml")
        self.events += events
        for record in records:
            while self.records and self.records[-1]["step"] >= record["step"]:
                self.records.pop()
            self.records.append(record)
        return News(records, events)

    @property
    def step(self) -> int:
        """Steps completed, as far as they were logged."""
        return int(self.records[-1]["step"]) if self.records else 0

    @property
    def finished(self) -> bool:
        """Whether the last step is done."""
        return self.step >= self.config.train.steps

    @property
    def ended(self) -> bool:
        """Whether the run has said that it ends, and has not been started again since."""
        kinds = [event["kind"] for event in self.events if event["kind"] in ("start", "end")]
        return kinds[-1:] == ["end"]

    def last(self, name: str) -> float | None:
        """The newest value of a metric."""
        return next((record[name] for record in reversed(self.records) if record.get(name) is not None), None)

    def series(self, name: str) -> list[float]:
        """All values of a metric."""
        return [record[name] for record in self.records if record.get(name) is not None]

    def silent(self) -> float:
        """Seconds since anything was written."""
        files = [file for name in (METRICS_FILE, EVENTS_FILE) if (file := self.folder / name).is_file()]
        return max(0.0, time.time() - max((file.stat().st_mtime for file in files), default=time.time()))

    def seconds_left(self) -> float | None:
        """Until the last step, at the pace of the last lines since the last start; None: not known yet."""
        pace = self.seconds_per_step()
        return None if pace is None else (self.config.train.steps - self.step) * pace

    def seconds_per_step(self) -> float | None:
        """Wall time, all that is done beside steps included."""
        started = max((event["time"] for event in self.events if event["kind"] == "start"), default=0.0)
        recent = [record for record in self.records[-RECENT:] if record.get("time", 0.0) > started]
        if len(recent) < 2:
            return None
        return float((recent[-1]["time"] - recent[0]["time"]) / (recent[-1]["step"] - recent[0]["step"]))
