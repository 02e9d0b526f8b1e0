"""The report of an evaluation: one self-contained page, a part for each task.

Axes: V volumes, S units, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from mri_fm.evaluate import figures, further, viewer_page
from mri_fm.evaluate.cache import Embedded
from mri_fm.evaluate.compare import HEADLINE_METHOD, Comparison
from mri_fm.evaluate.examples import examples
from mri_fm.evaluate.methods import HEADLINE, NUISANCE, PERMUTED, RANDOM, SUPERVISED, TRAINED, VOXELS, title_of, to_units
from mri_fm.evaluate.metrics import CHANCE, NAMES
from mri_fm.evaluate.task import NO_CLAIM, Task
from mri_fm.evaluate.viewer import View
from mri_fm.observe.page import html_image, html_page

STYLE = """
.caption { display: inline-block; margin: .3em 0 0 } .lead { color: #5a6675; margin-top: .2em } td { text-align: left }
td, th { padding: .35em .7em } td:not(:first-child) { white-space: nowrap } body { max-width: 1240px }
tr.headline td { font-weight: 600 } tr.null td { color: #5a6675 }
.examples { display: flex; flex-wrap: wrap; gap: .7em } .side { display: flex; flex-wrap: wrap; gap: 1em }
.side p { margin: .5em 0; max-width: 520px } section { border-top: 3px solid #1d2530; margin-top: 3em }
figure { margin: 0; width: 132px } figure img { width: 132px; border-radius: 4px; background: #000 }
figcaption { font-size: .75em; color: #5a6675; line-height: 1.3; overflow-wrap: anywhere } th { text-align: left }
"""


@dataclass(frozen=True)
class Shown:
    """What a task's part of the page is drawn from; `result` is its part of result.json."""

    task: Task
    embedded: Embedded
    comparison: Comparison
    result: Mapping[str, Any]
    views: Sequence[View] = ()


def text_table(result: Mapping[str, Any]) -> str:
    """The table that the command prints."""
    classes = f"{' / '.join(result['classes'])}, " if result["classes"] else ""
    caveat = f"; {result['caption']}" if NO_CLAIM in result["caption"] else ""
    head = (f"{result['task']}: {classes}{result['n_volumes']} volumes, {_contrasts(result)}, "
            f"{result['n_groups']} {result['group']} groups{caveat}")  # fmt: skip
    name = NAMES[result["metric"]]
    lines = [f"  {title_of(m):<50}{value:7.3f}  [{low:.3f}, {high:.3f}]" for m, value, (low, high) in _main_column(result)]
    null = result[PERMUTED]
    if null["count"]:
        low, high = null["interval"]
        lines.append(f"  {title_of(PERMUTED):<50}{null[result['metric']]:7.3f}  [{low:.3f}, {high:.3f}]   p = {null['p']:.3f}")
    return "\n".join([head, f"  {'':<50}{name:>7}  95 % interval", *lines])


def _main_column(result: Mapping[str, Any]) -> list[tuple[str, float, list[float]]]:
    found = [(name, metrics[result["metric"]]) for name, metrics in result["methods"].items()]
    return [(name, figure["value"], figure["interval"]) for name, figure in found]


def render(parts: Sequence[Shown]) -> str:
    """The page as HTML."""
    first = parts[0].result
    asked = f"“{parts[0].task.name}”" if len(parts) == 1 else f"{len(parts)} tasks"
    title = f"{first['objective']} at step {first['step']}: does the encoder see {asked}?"
    overview = "" if len(parts) == 1 else _overview(parts)
    body = "\n".join(_part(shown, alone=len(parts) == 1) for shown in parts)
    script = f"<script>{viewer_page.SCRIPT}</script>" if any(shown.views for shown in parts) else ""
    return html_page(title, f"<h1>{escape(title)}</h1>\n{overview}{body}{script}", STYLE + viewer_page.STYLE)


def _overview(parts: Sequence[Shown]) -> str:
    """One line for each task, p-values corrected over all of them."""
    rows = []
    for shown in parts:
        result, metric = shown.result, shown.result["metric"]
        low, high = result["interval"]
        null = result[PERMUTED]
        cells = [result["title"], NAMES[metric], f"{result[metric]:.3f} [{low:.3f}, {high:.3f}]"]
        cells += [f"{result[key][metric]:.3f}" for key in (RANDOM, VOXELS, NUISANCE, SUPERVISED)]
        cells.append(f"{null['p_holm']:.3f}" if "p_holm" in null else "")
        rows.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
    head = ("task", "metric", "headline", "random encoder", "raw voxels", "nuisance", "supervised", "p (Holm)")
    return f"""<table><tr>{"".join(f"<th>{name}</th>" for name in head)}</tr>{"".join(rows)}</table>
<p class="note">p: share of permuted labels on which the headline probe does as well, corrected over the {len(parts)} tasks
(Holm).</p>"""


def _part(shown: Shown, *, alone: bool) -> str:
    result = shown.result
    metric = NAMES[result["metric"]]
    head = "" if alone else f"<h1>{escape(result['title'])}</h1>\n"
    values = {name: value for name, value, _ in _main_column(result)}
    intervals = {name: spread for name, _, spread in _main_column(result)}
    titles = {name: title_of(name) for name in values}
    chance = CHANCE.get(result["metric"])
    return f"""<section>{head}<p class="lead">{_lead(result)}</p>
{f'<p class="caption warn">{escape(result["caption"])}</p>' if NO_CLAIM in result["caption"] else ""}
<h2>{escape(metric)} and baselines</h2>
{_table(result)}
{html_image(figures.forest_figure(titles, values, intervals, metric, chance), f"{metric} of each method with its interval")}
{_curves(shown, titles, values)}
{further.sections(result)}
<h2>The embeddings in two dimensions</h2>
{html_image(_map(shown), "principal components")}
<p>Mean over the tokens of each unit, principal components over all labelled units.
Only for looking at: no number above uses it.</p>
<h2>Examples</h2>
{examples(shown.task, shown.embedded, shown.comparison)}
{viewer_page.viewer_html(shown.views, shown.task.target.kind)}
<h2>How these figures were made</h2>
{_method(result)}</section>"""


def _map(shown: Shown) -> Any:
    encoders = {TRAINED: TRAINED, f"{RANDOM}.0": "random"}
    pooled = {title: to_units(shown.task, shown.embedded.encoders[name]["pooled"]).mean() for name, title in encoders.items()}
    return figures.map_figure(pooled, shown.task.target)


def _curves(shown: Shown, titles: Mapping[str, str], values: Mapping[str, float]) -> str:
    """ROC and reliability, or truth against prediction."""
    scores = {name: refits[0] for name, refits in shown.comparison.scores.items()}
    if shown.task.target.kind != "classification":
        figure = figures.scatter_figure(scores[HEADLINE_METHOD], shown.task.target.kind)
        return f"<h2>Predictions</h2>\n{html_image(figure, 'truth against out-of-fold prediction')}"
    areas = {name: found["auroc"]["value"] for name, found in shown.result["methods"].items()}
    drawn = {name: one for name, one in scores.items() if not name.endswith(RANDOM) or name.startswith(HEADLINE)}
    roc = figures.roc_figure(drawn, titles, areas)
    reliability = figures.reliability_figure(shown.result["calibration"])
    errors = {key: shown.result["methods"][HEADLINE_METHOD][key]["value"] for key in ("ece", "ece_calibrated")}
    return f"""<h2>ROC curves and calibration</h2>
<div class="side">{html_image(roc, "ROC curves")}{html_image(reliability, "reliability of the headline probe")}</div>
<p>Expected calibration error of the headline probe: {errors["ece"]:.3f}; at the temperature that validation units ask for:
{errors["ece_calibrated"]:.3f}. Curves are of the first refit; of random encoders only the
headline probe's is drawn.</p>"""


def _lead(result: Mapping[str, Any]) -> str:
    left_out = f", {result['n_missing_label']} without a label or group left out" if result["n_missing_label"] else ""
    counts = ", ".join(f"{count} × {escape(name)}" for name, count in result["class_counts"].items())
    classes = f" ({counts}{left_out})" if counts else left_out
    units = "" if result["unit"] == "volume" else f"; {result['n_units']} {result['unit']}s"
    groups = f"{result['n_groups']} groups by “{escape(result['group'])}”"
    return f"{result['n_volumes']} volumes{units}{classes}; {escape(_contrasts(result))}; {groups}"


def _contrasts(result: Mapping[str, Any]) -> str:
    named = ", ".join(result["contrasts"])
    return f"{named} only" if len(result["contrasts"]) == 1 else f"contrasts {named}"


def _table(result: Mapping[str, Any]) -> str:
    """Methods by metrics; the task's own metric comes first and with its interval."""
    main = result["metric"]
    others = [name for name in next(iter(result["methods"].values())) if name not in (main, "ece", "ece_calibrated")]
    rows = []
    for method, metrics in result["methods"].items():
        style = ' class="headline"' if method == HEADLINE_METHOD else ""
        low, high = metrics[main]["interval"]
        cells = [title_of(method), f"{metrics[main]['value']:.3f}", f"[{low:.3f}, {high:.3f}]", _gain(result, method)]
        cells += [f"{metrics[name]['value']:.3f}" for name in others]
        rows.append(f"<tr{style}>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>")
    null = result[PERMUTED]
    if null["count"]:
        low, high = null["interval"]
        cells = [
            title_of(PERMUTED),
            f"{null[main]:.3f}",
            f"[{low:.3f}, {high:.3f}]",
            f"p = {null['p']:.3f}",
            *("" for _ in others),
        ]
        rows.append(f'<tr class="null">{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>')
    names = ("method", NAMES[main], "95 % interval", "gain over the random encoder", *(NAMES[name] for name in others))
    return f"""<table><tr>{"".join(f"<th>{escape(name)}</th>" for name in names)}</tr>
{chr(10).join(rows)}</table>
<p>Bold: the headline, chosen beforehand. A gain whose interval holds 0 is no evidence for the training. A baseline that
does as well says that the label can be read without it. Permuted labels: the interval holds 95 % of
{null["count"]} permutations, and p is the share of them that does as well as the headline.</p>"""


def _gain(result: Mapping[str, Any], method: str) -> str:
    probe, _, encoder = method.partition("/")
    found = result["probes"].get(probe, {})
    if encoder != TRAINED or f"gain_over_{RANDOM}" not in found:
        return ""
    low, high = found[f"gain_over_{RANDOM}_interval"]
    return f"{found[f'gain_over_{RANDOM}']:+.3f} [{low:+.3f}, {high:+.3f}]"


def _method(result: Mapping[str, Any]) -> str:
    group, seen = escape(result["group"]), result["n_seen_in_pretraining"]
    known = "It was pretrained on another corpus." if seen is None else f"Pretraining saw {seen} of them, without labels."
    times = "once" if result["refits"] == 1 else f"{result['refits']} times"
    crop, grid = (" × ".join(map(str, result[key])) for key in ("size", "voxel_grid"))
    return f"""<ul>
<li>The {escape(result["encoder"])} of the run is frozen. Each volume passes it once, as one deterministic crop of
{crop} voxels. {known}</li>
<li>Split: {escape(result["split"])}, disjoint by “{group}”. Every score is of a unit whose fold the probe did
not see; the scores of all folds are pooled into one figure. With more than two classes AUROC is the mean of one
against the rest. Thresholds (balanced accuracy, F1) and temperatures are chosen on validation units inside the training
part.</li>
<li>Linear probe: mean over the tokens, standardised, {"logistic" if result["classes"] else "ridge or Cox"} regression; its
strength is chosen on inner folds of the training part. Attentive probe: one learned query, cross-attention, a small MLP; its
epoch is chosen on a quarter of the training part. Scaling and principal components are fitted on the training part. Nothing is
chosen on test volumes.</li>
<li>Random encoder: the same network at {result[RANDOM]["seeds"]} seeds before the first step; the first is this run's own.
Raw voxels: the same crop averaged to {grid} cells. Supervised: a small convolutional network on the crop.</li>
<li>Everything is drawn and fitted {times}. Intervals: percentiles of {result["resamples"]} resamples of whole
groups (“{group}”), each with one of the refits; the same for all methods, so that gains are paired.</li>
<li>Seed {result["seed"]}; run “{escape(result["run"])}”, objective {escape(result["objective"])}, step {result["step"]}.</li>
</ul>"""
