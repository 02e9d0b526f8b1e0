"""One HTML page about one run or several, from their folders alone: no account, no server, no other file.

    python -m mri_fm.observe.report RUN [RUN…] [--out report.html] [--gpu h100 --nodes 8 --gpus-per-node 8]
    python -m mri_fm.observe.report RUN --live    # in the terminal while it goes on, see mri_fm.observe.live

Curves in the arrangement of `mri_fm.observe.panels` (drag to zoom all of them, double click to go back), pictures, what
differs in the configurations, starts, faults and alerts on the same axes, and with --gpu the throughput that `launch.plan`
expects.
"""

from __future__ import annotations

import argparse
import base64
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from mri_fm.config import Config, config_from_yaml
from mri_fm.errors import UserError, run_main
from mri_fm.observe.draw import PICTURE_DIR
from mri_fm.observe.events import read_events
from mri_fm.observe.page import html_page, html_table
from mri_fm.observe.panels import SECTIONS
from mri_fm.observe.recorder import read_metrics

COLOURS = ("#2463b0", "#d9822b", "#0f766e", "#7a5aa6", "#b0413e", "#b0913e", "#3a86a6", "#5a6675")
POINTS = 1500  # of a curve at most
PICTURES = 12  # of a kind and run at most, evenly spread
EVENTS = 200  # rows of the table at most, the last ones
_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Run:
    """What a run folder holds."""

    name: str
    folder: Path
    config: Config
    records: list[dict[str, Any]]
    events: list[dict[str, Any]]

    @property
    def start(self) -> float | None:
        """When it began, in Unix seconds, if it says so."""
        times = [line["time"] for line in (*self.events, *self.records) if "time" in line]
        return min(times) if times else None

    def hours(self, line: Mapping[str, Any]) -> float | None:
        """Hours from the run's begin to an event or a logged step."""
        return None if self.start is None or "time" not in line else round((line["time"] - self.start) / 3600, 5)


@dataclass(frozen=True)
class Planned:
    """What `launch.plan` expects of the first run on some GPUs."""

    where: str
    step_s: float
    volumes_per_s: float
    mfu: float


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """The runs, named by what tells their folders apart.

    Raises:
        UserError: a folder without a configuration or without a logged step.
    """
    runs = []
    for folder, name in zip(folders, _names(folders), strict=True):
        records = read_metrics(folder)
        if not records:
            raise UserError(f"{folder} has not logged a step yet")
        runs.append(Run(name, folder, config_from_yaml(folder / "config.yaml"), records, read_events(folder)))
    return runs


def write_report(runs: Sequence[Run], out: Path, planned: Planned | None = None) -> None:
    """Write the page."""
    title = runs[0].name if len(runs) == 1 else f"{len(runs)} runs"
    sections = [f'<h2>{name}</h2><div class="panels" data-section="{name}"></div>' for name in _sections(runs, planned)]
    after_losses = 1 + list(_sections(runs, planned)).index("losses")
    body = [
        f"<h1>{escape(title)}</h1>",
        _overview(runs),
        _controls(runs),
        *sections[:after_losses],
        _pictures(runs),
        *sections[after_losses:],
        _plan(runs, planned),
        _differences(runs),
        _events(runs),
        f'<script type="application/json" id="data">{_data(runs, planned)}</script>',
        _CLIP,
        f"<script>{(_FOLDER / 'report.js').read_text(encoding='utf-8')}</script>",
    ]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(html_page(title, "\n".join(body), (_FOLDER / "report.css").read_text(encoding="utf-8")), encoding="utf-8")


_CLIP = """<svg width="0" height="0" style="position:absolute"><defs><clipPath id="plot">
<rect x="46" y="4" width="285" height="166"></rect></clipPath></defs></svg>"""


def _names(folders: Sequence[Path]) -> list[str]:
    names = [folder.resolve().name for folder in folders]
    return names if len(set(names)) == len(names) else [str(folder) for folder in folders]


def _sections(runs: Sequence[Run], planned: Planned | None) -> dict[str, list[dict[str, Any]]]:
    """The panels that have a curve, with the names of their curves."""
    logged = {name for run in runs for record in run.records for name, value in record.items() if value is not None}
    plans = {} if planned is None else {"volumes / s": planned.volumes_per_s, "MFU": planned.mfu}
    found = {}
    for section, panels in SECTIONS.items():
        cards = [
            {"title": panel.title, "log": panel.log, "keys": keys, "plan": plans.get(panel.title)}
            for panel in panels
            if (keys := panel.choose(logged))
        ]
        if cards:
            found[section] = cards
    return found


def _data(runs: Sequence[Run], planned: Planned | None) -> str:
    content = {
        "sections": _sections(runs, planned),
        "runs": [_run_data(run, COLOURS[number % len(COLOURS)]) for number, run in enumerate(runs)],
    }
    return json.dumps(content, separators=(",", ":")).replace("<", "\\u003c")


def _run_data(run: Run, colour: str) -> dict[str, Any]:
    """Columns; a long run's are thinned out, but for the lines that were observed."""
    stride = -(-len(run.records) // POINTS)
    rows = [r for n, r in enumerate(run.records) if n % stride == 0 or "feature_std" in r or r is run.records[-1]]
    names = {name for row in rows for name in row} - {"step", "samples", "time"}
    series = {name: [_rounded(row.get(name)) for row in rows] for name in sorted(names)}
    return {
        "name": run.name,
        "colour": colour,
        "x": {"step": [row["step"] for row in rows], "samples": [row.get("samples") for row in rows],
              "hours": [run.hours(row) for row in rows]},
        "series": {name: values for name, values in series.items() if any(value is not None for value in values)},
        "events": [
            {"kind": event["kind"], "text": event["text"], "step": event["step"], "hours": run.hours(event),
             "samples": event["step"] * run.config.train.global_batch}
            for event in run.events
        ],
    }  # fmt: skip


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")


def _overview(runs: Sequence[Run]) -> str:
    head = ("run", "objective", "model", "steps", "loss", "validation", "volumes/s", "resumed", "alerts", "faults")
    rows = []
    for run in runs:
        kinds = [event["kind"] for event in run.events]
        last = run.records[-1]
        rows.append([
            run.name, run.config.objective.name, run.config.model.name, f"{last['step']} of {run.config.train.steps}",
            _number(last.get("loss")), _number(_last(run, "val_loss")), _number(last.get("volumes_per_s")),
            str(max(0, kinds.count("start") - 1)), str(kinds.count("alert")), str(kinds.count("fault")),
        ])  # fmt: skip
    return html_table(head, rows)


def _last(run: Run, name: str) -> float | None:
    return next((record[name] for record in reversed(run.records) if record.get(name) is not None), None)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _controls(runs: Sequence[Run]) -> str:
    boxes = "".join(
        f'<label><input type="checkbox" checked data-run="{number}"><i style="background:{COLOURS[number % len(COLOURS)]}"></i>'
        f"{escape(run.name)}</label>"
        for number, run in enumerate(runs)
    )
    return f"""<div class="controls">{boxes}
<label>over <select id="axis"><option>step</option><option>samples</option><option>hours</option></select></label>
<label>smoothing <input type="range" id="smooth" min="0" max="0.98" step="0.02" value="0"></label>
<button type="button" id="reset" hidden>whole range</button>
<span class="note">drag to zoom, double click to go back; grey: resumed, orange: fault, red: alert</span></div>"""


def _pictures(runs: Sequence[Run]) -> str:
    reels = []
    for run in runs:
        files = sorted((run.folder / PICTURE_DIR).glob("*.png"))
        for kind in sorted({file.stem.rpartition("-")[0] for file in files}):
            reels.append(_reel(run, kind, [file for file in files if file.stem.rpartition("-")[0] == kind]))
    return f'<h2>pictures</h2><div class="reels">{"".join(reels)}</div>' if reels else ""


def _reel(run: Run, kind: str, files: list[Path]) -> str:
    """Pictures of a kind under a slider."""
    chosen = [files[round(n * (len(files) - 1) / max(1, PICTURES - 1))] for n in range(PICTURES)]
    unique = list(dict.fromkeys(files if len(files) <= PICTURES else chosen))
    images = "".join(
        f'<img alt="{kind} at step {int(file.stem.rpartition("-")[2])}" hidden '
        f'src="data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()}">'
        for file in unique
    )
    hidden = "" if len(unique) > 1 else " hidden"
    slider = f'<input type="range" min="0" max="{len(unique) - 1}" value="{len(unique) - 1}" aria-label="step"{hidden}>'
    return f'<div class="reel"><b>{escape(run.name)}</b> <output></output>{images}{slider}</div>'


def _plan(runs: Sequence[Run], planned: Planned | None) -> str:
    if planned is None:
        return ""
    run = runs[0]
    measured = [_median(run, name) for name in ("step_time", "volumes_per_s", "mfu")]
    expected = [planned.step_s, planned.volumes_per_s, planned.mfu]
    names = ("seconds per step", "volumes / s", "MFU")
    rows = [
        [name, _number(is_), _number(was), "–" if is_ is None else f"{is_ / was:.0%}"]
        for name, is_, was in zip(names, measured, expected, strict=True)
    ]
    return f"""<h2>Against the plan</h2>{html_table(("", "median of the run", "planned", "of the plan"), rows)}
<p class="note">{escape(run.name)} beside what <code>python -m launch.plan</code> expects on {escape(planned.where)}: a
roofline, which nothing reaches exactly.</p>"""


def _median(run: Run, name: str) -> float | None:
    values = sorted(record[name] for record in run.records if record.get(name) is not None)
    return values[len(values) // 2] if values else None


def _differences(runs: Sequence[Run]) -> str:
    if len(runs) < 2:
        return ""
    flat = [_flatten(OmegaConf.to_container(OmegaConf.structured(run.config))) for run in runs]
    keys = sorted({key for values in flat for key in values} - {"run.dir"})
    rows = [[key, *(values.get(key, "–") for values in flat)] for key in keys if len({v.get(key) for v in flat}) > 1]
    table = html_table(("key", *(run.name for run in runs)), rows) if rows else "<p>Nothing but the folder.</p>"
    return f"<h2>What differs in the configurations</h2>{table}"


def _flatten(node: Any, prefix: str = "") -> dict[str, str]:
    if not isinstance(node, dict):
        return {prefix[:-1]: str(node)}
    return {key: value for name, part in node.items() for key, value in _flatten(part, f"{prefix}{name}.").items()}


def _events(runs: Sequence[Run]) -> str:
    rows = [(run, event) for run in runs for event in run.events][-EVENTS:]
    cells = "\n".join(
        f"<tr><td>{escape(run.name)}</td><td>{event['step']}</td><td>{_number(run.hours(event))}</td>"
        f'<td><span class="kind {escape(event["kind"])}">{escape(event["kind"])}</span></td>'
        f'<td style="text-align:left">{escape(event["text"])}</td></tr>'
        for run, event in rows
    )
    head = "<tr><th>run</th><th>step</th><th>hours</th><th>what</th><th></th></tr>"
    return f"<h2>Events</h2><table>{head}{cells}</table>" if rows else ""


def plan(config: Config, gpu: str, nodes: int, gpus_per_node: int) -> Planned:
    """What `launch.plan` expects of a run's configuration.

    Raises:
        UserError: an unknown GPU, a batch that does not divide, or no such package: it comes with a checkout.
    """
    try:
        from launch.plan import choose, consider
        from launch.planning.hardware import GPUS
        from launch.planning.roofline import Cluster
    except ImportError as error:
        raise UserError("--gpu needs the package `launch`: run from a checkout of the project") from error
    if gpu not in GPUS:
        raise UserError(f"--gpu {gpu} is not one of {', '.join(sorted(GPUS))}")
    cluster = Cluster(nodes, gpus_per_node, GPUS[gpu])
    if config.train.global_batch % cluster.world:
        raise UserError(f"train.global_batch={config.train.global_batch} does not divide over {cluster.world} GPUs")
    step = choose(list(consider(config, cluster)), cluster).step
    rate = config.train.global_batch * config.data.rows / step.seconds
    return Planned(
        f"{nodes} × {gpus_per_node} {GPUS[gpu].name}", step.seconds, rate, step.flops / step.seconds / GPUS[gpu].flops
    )


def _follow(folders: Sequence[Path]) -> int:
    if len(folders) > 1:
        raise UserError("--live follows one run: give one folder, or leave --live out to compare them on a page")
    from rich.console import Console

    from mri_fm.observe.follow import FollowedRun
    from mri_fm.observe.live import follow

    with suppress(KeyboardInterrupt):
        follow(FollowedRun(folders[0]), Console())
    return 0


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a folder given as run.dir; the first is planned for")
    parser.add_argument("--out", type=Path, help="the page (default: RUN/report.html of the first run)")
    parser.add_argument("--gpu", help="show the plan for such GPUs: h100, …")
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--gpus-per-node", type=int, default=8)
    parser.add_argument("--live", action="store_true", help="follow one run in the terminal instead; ctrl-c ends it")
    options = parser.parse_args()
    if options.live:
        return _follow(options.runs)
    runs = read_runs(options.runs)
    planned = plan(runs[0].config, options.gpu, options.nodes, options.gpus_per_node) if options.gpu else None
    out = options.out or options.runs[0] / "report.html"
    write_report(runs, out, planned)
    print(out)
    return 0


if __name__ == "__main__":
    run_main(main)
