"""A run in the terminal while it goes on: `python -m mri_fm.observe.report RUN --live`.

It reads the run's folder alone, so it may start at any time once the run has, on any machine that sees the folder. Where
the output is no terminal it prints one line for each logged step and each event instead.
"""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mri_fm.observe.follow import FollowedRun, News
from mri_fm.observe.panels import SECTIONS, Panel

LEVELS = "▁▂▃▄▅▆▇█"
POLL_S = 1.0
GRACE_S = 60.0  # a run that was stopped before its last step may be started again by its supervisor
_ORDER = ("losses", "collapse", "health", "probes", "throughput", "data", "system")
_LINE = ("loss", "val_loss", "grad_norm", "volumes_per_s")  # without a terminal
_COLUMN, _GAP, _SPARK = 62, 3, 28  # characters of a table, between two, of a curve
_EVENTS = 5
_SHADES = {"alert": "bold red", "fault": "yellow", "start": "cyan", "end": "dim"}


def follow(run: FollowedRun, console: Console, *, grace_s: float = GRACE_S) -> None:
    """Show a run until it is finished, or until `grace_s` after it was stopped before its last step."""
    if console.is_terminal:
        with Live(console=console, auto_refresh=False, vertical_overflow="ellipsis") as live:
            for _ in _looks(run, grace_s):
                live.update(view(run, console.width), refresh=True)
        return
    for number, news in enumerate(_looks(run, grace_s)):
        records = news.records if number else news.records[-1:]  # what was there before is in the report
        lines = [(event["time"], _event_line(event)) for event in news.events]
        lines += [(record.get("time", 0.0), _record_line(record, run)) for record in records]
        for _, line in sorted(lines):
            print(line, file=console.file, flush=True)


def view(run: FollowedRun, width: int) -> RenderableType:
    """What a terminal of `width` characters shows of a run as it is now."""
    used = min(width, 2 * _COLUMN + _GAP)
    tables = [_table(name, names, run) for name, names in _sections(run).items()]
    columns = _halves(tables) if used == 2 * _COLUMN + _GAP else [tables]
    body = Table.grid(padding=(0, _GAP, 0, 0))
    body.add_row(*(Group(*column) for column in columns))
    steps = run.config.train.steps
    bar = Table.grid()  # alone it would not end its line
    bar.add_row(ProgressBar(total=steps, completed=min(run.step, steps), width=used))
    events = [Text(_event_line(event), style=_SHADES[event["kind"]], no_wrap=True) for event in run.events[-_EVENTS:]]
    return Group(_title(run), bar, *events, body)


def sparkline(values: Sequence[float], width: int, *, log: bool = False) -> str:
    """A curve of at most `width` characters, each the mean of as many values, from the least (▁) to the largest (█).

    With `log` heights are those of the logarithm, where all values are positive.
    """
    scaled = [math.log(value) for value in values] if log and all(value > 0 for value in values) else list(values)
    count = min(width, len(scaled))
    edges = [len(scaled) * n // max(1, count) for n in range(count + 1)]
    means = [statistics.fmean(scaled[a:b]) for a, b in itertools.pairwise(edges)]
    low, high = min(means, default=0.0), max(means, default=0.0)
    return "".join(LEVELS[min(7, int(8 * (mean - low) / ((high - low) or 1.0)))] for mean in means)


def duration(seconds: float) -> str:
    """Seconds as people say them: 42 s, 5 min, 3 h 20 min, 2 d 4 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours = minutes // 60
    return f"{hours} h {minutes % 60} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def _looks(run: FollowedRun, grace_s: float) -> Iterator[News]:
    while True:
        yield run.look()
        if run.ended and run.finished:
            return
        if (run.ended or run.finished) and run.silent() > grace_s:
            return
        time.sleep(POLL_S)


def _title(run: FollowedRun) -> Text:
    config = run.config
    text = Text(no_wrap=True)
    text.append(run.folder.resolve().name, style="bold")
    text.append(f"  {config.objective.name}, {config.model.name}  step {run.step} of {config.train.steps}  ")
    pace, left = run.seconds_per_step(), run.seconds_left()
    if run.finished:
        return text.append("finished", style="bold green")
    if pace is not None and left is not None:
        text.append(f"{pace:.3g} s each, {duration(left)} left")
    if run.ended:
        return text.append("  stopped; the same command resumes", style="bold yellow")
    if run.records and run.silent() > max(GRACE_S, 5 * config.log_every * (pace or 0.0)):
        text.append(f"  nothing written for {duration(run.silent())}", style="bold red")
    return text


def _sections(run: FollowedRun) -> dict[str, list[Panel]]:
    """Panels of single metrics that were logged: a terminal has no room for a curve of each block."""
    logged = {name for record in run.records for name, value in record.items() if value is not None}
    found = {}
    for section in _ORDER:
        panels = [Panel(name, (name,), panel.log) for panel in SECTIONS[section] for name in panel.choose(logged)
                  if name in panel.keys or section == "probes"]  # fmt: skip
        if panels:
            found[section] = panels
    return found


def _table(section: str, panels: Sequence[Panel], run: FollowedRun) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), width=_COLUMN, title_justify="left", title=section, title_style="bold cyan",
                  show_header=False)  # fmt: skip
    table.add_column(ratio=1, no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(width=_SPARK, no_wrap=True, style="cyan")
    for panel in panels:
        values = run.series(panel.title)
        table.add_row(panel.title, f"{values[-1]:.4g}", sparkline(values, _SPARK, log=panel.log))
    return table


def _halves(tables: Sequence[Table]) -> list[list[Table]]:
    """The tables in two columns, cut where the left one first has half of the rows."""
    rows = list(itertools.accumulate(table.row_count + 1 for table in tables))
    cut = next((number for number, count in enumerate(rows, 1) if 2 * count >= rows[-1]), 0)
    return [list(tables[:cut]), list(tables[cut:])]


def _record_line(record: dict[str, Any], run: FollowedRun) -> str:
    """One line about a logged step."""
    shown = {name: record.get(name) for name in _LINE}
    values = "  ".join(f"{name} {value:.4g}" for name, value in shown.items() if value is not None)
    left = run.seconds_left()
    return f"step {record['step']} of {run.config.train.steps}  {values}" + (f"  {duration(left)} left" if left else "")


def _event_line(event: dict[str, Any]) -> str:
    moment = time.strftime("%m-%d %H:%M", time.localtime(event["time"]))
    return f"{moment}  step {event['step']}  {event['kind']}: {event['text']}"
