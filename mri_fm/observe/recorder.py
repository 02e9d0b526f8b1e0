"""Where a run's numbers go: metrics.jsonl and events.jsonl always; pictures, W&B, TensorBoard as configured. Rank 0 only."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from mri_fm.config import Config
from mri_fm.errors import ResumableError, UserError
from mri_fm.observe.alerts import Alert, Alerts
from mri_fm.observe.draw import PICTURE_DIR, Arrays, Drawer
from mri_fm.observe.events import Events
from mri_fm.observe.lines import open_to_append, read_lines
from mri_fm.observe.tensorboard import TensorBoardFile
from mri_fm.observe.wandb_run import WandbRun

METRICS_FILE = "metrics.jsonl"
Record = dict[str, float | int | None]
_LEAST_SILENCE_S = 60.0
_FAULTS = {"skips": "samples skipped", "nonfinite_steps": "steps left out, as their loss or gradient was not finite"}
_log = logging.getLogger(__name__)


class Recorder:
    """Appends one flushed line per logged step, says what happens, and mirrors both to W&B and TensorBoard."""

    def __init__(self, config: Config, run_dir: Path, start: int = 0) -> None:
        """Open the run's files for appending and start or continue its W&B run; `start` steps have been made before."""
        self._file = open_to_append(run_dir / METRICS_FILE)
        self._events = Events(run_dir)
        self._drawer = Drawer(run_dir / PICTURE_DIR)
        self._wandb = None if config.wandb.mode == "disabled" else WandbRun(config, run_dir)
        self._tensorboard = TensorBoardFile(run_dir, start) if config.observe.tensorboard else None
        self._alerts = Alerts(config.observe.alerts)
        self._silence = Silence(config.observe.alerts.stall, self._say_silent)
        self._step, self._counts = start, dict.fromkeys(_FAULTS, 0)
        self._events.add("start", start, f"resumed after step {start}" if start else "started")

    def write(self, record: Mapping[str, float | int | None]) -> None:
        """Append one line, with the time; after a resume a step may stand twice, and the last line counts.

        Raises:
            ResumableError: the file cannot be written, as on a full disk.
        """
        self._step = int(record["step"] or 0)
        self._silence.end()
        try:
            self._file.write(json.dumps({**record, "time": time.time()}) + "\n")
            self._file.flush()
        except OSError as error:
            raise ResumableError(f"{self._file.name} cannot be written ({error}); the same command resumes") from error
        self._mirror(record)
        self._note_faults(record)
        for alert in self._alerts.check(record):
            self._alert(alert)

    def draw(self, step: int, arrays: Arrays) -> None:
        """Have pictures drawn beside the run, see `mri_fm.observe.draw`."""
        self._drawer.draw(step, arrays)

    def _mirror(self, record: Mapping[str, float | int | None]) -> None:
        """The numbers of a step, and the pictures that have been finished since the last one."""
        pictures = self._drawer.drawn()
        for mirror in (self._wandb, self._tensorboard):
            if mirror is not None and (record or pictures):
                mirror.log(self._step, record, pictures)

    def _alert(self, alert: Alert) -> None:
        _log.warning("step %d, %s: %s", self._step, alert.title, alert.text)
        self._events.add("alert", self._step, f"{alert.title}: {alert.text}")
        if self._wandb is not None:
            self._wandb.alert(alert.title, f"step {self._step}: {alert.text}")

    def _say_silent(self, seconds: float) -> None:
        self._alert(Alert("stall", f"nothing has been logged for {seconds:.0f} s"))

    def _note_faults(self, record: Mapping[str, float | int | None]) -> None:
        for name, words in _FAULTS.items():
            count = int(record.get(name) or 0)
            if count > self._counts[name]:
                self._events.add("fault", self._step, f"{count} {words} so far")
            self._counts[name] = max(count, self._counts[name])

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._silence.close()
        self._events.add("end", self._step, "ended" if kind is None else f"ended by {kind.__name__}: {error}")
        self._events.close()
        with suppress(OSError):  # of a line that could not be written, of which `write` has told
            self._file.close()
        self._drawer.close()
        self._mirror({})
        if self._wandb is not None:
            self._wandb.finish(exit_code=0 if kind is None else 1)


class Silence:
    """Calls back, from a thread, where far more time than usual goes by between two lines."""

    def __init__(self, factor: float, call: Any) -> None:
        """Call `call(seconds)` after `factor` × the longest interval so far, a minute at least; 0: never."""
        self._factor, self._call = factor, call
        self._last, self._longest = time.monotonic(), 0.0
        self._timer: threading.Timer | None = None

    def end(self) -> None:
        """A line has come; wait for the next one."""
        now = time.monotonic()
        known = self._timer is not None
        self.close()
        self._longest = max(self._longest, now - self._last) if known else 0.0
        self._last = now
        limit = max(_LEAST_SILENCE_S, self._factor * self._longest)
        if self._factor:
            self._timer = threading.Timer(limit, self._call, [limit])
            self._timer.daemon = True
            self._timer.start()

    def close(self) -> None:
        """Wait no longer."""
        if self._timer is not None:
            self._timer.cancel()


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl by step; where a step stands twice the last line counts, a line cut by a crash does not.

    Raises:
        UserError: no such file.
    """
    file = run_dir / METRICS_FILE
    if not file.is_file():
        raise UserError(f"no {file}: the run has not logged anything yet")
    by_step = {record["step"]: record for record in read_lines(file)}
    return [by_step[step] for step in sorted(by_step)]
