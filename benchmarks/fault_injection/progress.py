"""What a run's folder shows while it trains: steps that are logged, checkpoints that are published, what supervisors say."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from mri_fm.engine.publication import CHECKSUM_FILE, LATEST_FILE, step_name
from mri_fm.observe.recorder import METRICS_FILE, read_metrics

PATIENCE_S = 900.0
_LOOK_S = 0.01


class Progress:
    """`with Progress(run_dir) as progress: …` notes the time at which anything new appears."""

    def __init__(self, run_dir: Path) -> None:
        """Begin with an empty folder."""
        self.run_dir = run_dir
        self.logged: list[tuple[float, int]] = []  # time, step
        self.published: list[tuple[float, int]] = []
        self._offset = 0
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._look_often, daemon=True)

    def __enter__(self) -> Progress:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._thread.join()

    def step(self) -> int:
        """The last one that was logged."""
        return self.logged[-1][1] if self.logged else 0

    def step_s(self) -> float:
        """Seconds of the last step."""
        return self.logged[-1][0] - self.logged[-2][0] if len(self.logged) > 1 else 0.5

    def newest(self, now: float) -> int:
        """The step of the checkpoint that was the newest at a time; 0 before the first."""
        return next((step for when, step in reversed(self.published) if when <= now), 0)

    def events(self, name: str) -> list[float]:
        """When the supervisors said something, ascending."""
        texts = (file.read_text() for file in (self.run_dir / "supervision").glob("log*.jsonl"))
        lines = (json.loads(line) for text in texts for line in text.splitlines() if line.endswith("}"))
        return sorted(line["time"] for line in lines if line["event"] == name)

    def result(self, step: int) -> tuple[dict[int, float], dict[str, str]]:
        """The loss of every step, and the checksums of what the ranks wrote after `step`, the last one."""
        losses = {record["step"]: record["loss"] for record in read_metrics(self.run_dir)}
        sums = json.loads((self.run_dir / "checkpoints" / step_name(step) / CHECKSUM_FILE).read_text())
        return losses, {name: value for name, value in sums.items() if name.startswith("rank-")}

    def _look_often(self) -> None:
        while not self._closed.wait(_LOOK_S):
            with suppress(OSError, ValueError, IndexError):
                self._look_at_latest()
            with suppress(OSError):
                self._look_at_metrics()

    def _look_at_latest(self) -> None:
        step = int((self.run_dir / "checkpoints" / LATEST_FILE).read_text().split("-")[1])
        if not self.published or self.published[-1][1] != step:
            self.published.append((time.time(), step))

    def _look_at_metrics(self) -> None:
        with (self.run_dir / METRICS_FILE).open() as file:
            file.seek(self._offset)
            text = file.read()
        whole = text[: text.rfind("\n") + 1]
        self._offset += len(whole)
        self.logged += [(time.time(), json.loads(line)["step"]) for line in whole.splitlines() if line.endswith("}")]


def wait_until(condition: Callable[[], Any], seconds: float = PATIENCE_S) -> None:
    """Look often.

    Raises:
        RuntimeError: it does not become true in time.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"waited {seconds:g} s in vain")
        time.sleep(_LOOK_S)
