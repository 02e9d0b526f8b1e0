"""The report of an evaluation: one self-contained page.

Axes: S samples (volumes), K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mri_fm.evaluate import figures
from mri_fm.evaluate.compare import HEADLINE, PROBES, RANDOM, TRAINED, VOXELS, Comparison
from mri_fm.evaluate.embed import Embedded
from mri_fm.evaluate.task import Task
from mri_fm.observe.page import figure_address, html_image, html_page

TITLES = {
    "linear/trained": "linear probe, trained encoder",
    "linear/random_init": "linear probe, random encoder",
    "attentive/trained": "attentive probe, trained encoder",
    "attentive/random_init": "attentive probe, random encoder",
    "raw_voxel": "raw voxels, PCA and logistic regression",
}
ENCODERS = {TRAINED: "trained encoder", RANDOM: "random encoder"}
EXAMPLES = 6  # of each kind

STYLE = """
.caption { display: inline-block; margin: .3em 0 0 } .lead { color: #5a6675; margin-top: .2em } td { text-align: left }
tr.headline td { font-weight: 600 } .examples { display: flex; flex-wrap: wrap; gap: .7em }
figure { margin: 0; width: 132px } figure img { width: 132px; border-radius: 4px; background: #000 }
figcaption { font-size: .75em; color: #5a6675; line-height: 1.3; overflow-wrap: anywhere }
th { text-align: left }
"""


def method_figures(result: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, list[float]]]:
    """AUROC and interval of every method in the order of `TITLES`, out of result.json."""
    point, spread = {}, {}
    for probe in PROBES:
        found = result["probes"][probe]
        point[f"{probe}/{TRAINED}"], spread[f"{probe}/{TRAINED}"] = found["auroc"], found["interval"]
        point[f"{probe}/{RANDOM}"], spread[f"{probe}/{RANDOM}"] = found["random_init_auroc"], found["random_init_interval"]
    point[VOXELS], spread[VOXELS] = result["raw_voxel"]["auroc"], result["raw_voxel"]["interval"]
    return point, spread


def text_table(result: Mapping[str, Any]) -> str:
    """The table that the command prints."""
    point, spread = method_figures(result)
    head = (f"{result['label']}: {' / '.join(result['classes'])}, {result['n_volumes']} volumes, "
            f"{_contrasts(result)}, {result['n_units']} {result['unit']} units; {result['caption']}")  # fmt: skip
    lines = [f"  {TITLES[m]:<42}{point[m]:.3f}  [{spread[m][0]:.3f}, {spread[m][1]:.3f}]" for m in TITLES]
    return "\n".join([head, f"  {'':<42}AUROC  95 % interval", *lines])


def render(result: Mapping[str, Any], task: Task, embedded: Embedded, comparison: Comparison, keys: Sequence[str]) -> str:
    """The page as HTML.

    Args:
        result: the content of result.json.
        task: labels of the samples.
        embedded: their embeddings and middle slices.
        comparison: their scores.
        keys: their keys.
    """
    point, spread = method_figures(result)
    scores = {method: comparison.scores[method] for method in TITLES}
    title = f"{result['objective']} at step {result['step']}: does the encoder see “{result['label']}”?"
    body = f"""<h1>{escape(title)}</h1>
<p class="lead">{_lead(result)}</p>
<p class="caption warn">{escape(result["caption"])}</p>
<h2>Area under the ROC curve</h2>
{_table(result, point, spread)}
{html_image(figures.forest_figure(TITLES, point, spread), "AUROC of each method with its interval")}
<h2>ROC curves</h2>
{html_image(figures.roc_figure(task.label_S, scores, TITLES, point), "ROC curves")}
<h2>The embeddings in two dimensions</h2>
{html_image(figures.map_figure(embedded.pooled, ENCODERS, task.label_S, task.classes), "principal components")}
<p>Mean over the tokens of each volume, principal components over all labelled volumes.
Only for looking at: no number above uses it.</p>
<h2>Examples</h2>
{_examples(task, embedded, comparison, keys)}
<h2>How these figures were made</h2>
{_method(result)}"""
    return html_page(title, body, STYLE)


def _lead(result: Mapping[str, Any]) -> str:
    left_out = f", {result['n_missing_label']} without a label or unit left out" if result["n_missing_label"] else ""
    counts = ", ".join(f"{count} × {escape(name)}" for name, count in result["class_counts"].items())
    units = f"{result['n_units']} units by “{escape(result['unit'])}”"
    return f"{result['n_volumes']} volumes ({counts}{left_out}); {escape(_contrasts(result))}; {units}"


def _contrasts(result: Mapping[str, Any]) -> str:
    named = ", ".join(result["contrasts"])
    return f"{named} only" if len(result["contrasts"]) == 1 else f"contrasts {named}"


def _table(result: Mapping[str, Any], point: Mapping[str, float], spread: Mapping[str, Sequence[float]]) -> str:
    rows = []
    for method, title in TITLES.items():
        style = ' class="headline"' if method == f"{result['headline']}/{TRAINED}" else ""
        low, high = spread[method]
        numbers = (f"{point[method]:.3f}", f"[{low:.3f}, {high:.3f}]", _gain(result, method))
        cells = "".join(f"<td>{number}</td>" for number in numbers)
        rows.append(f"<tr{style}><td>{title}</td>{cells}</tr>")
    heads = "".join(f"<th>{name}</th>" for name in ("method", "AUROC", "95 % interval", "gain over the random encoder"))
    body = "\n".join(rows)
    return f"""<table><tr>{heads}</tr>
{body}</table>
<p>Bold: the headline, chosen beforehand. A gain whose interval holds 0 is no evidence for the training.</p>"""


def _gain(result: Mapping[str, Any], method: str) -> str:
    probe, _, encoder = method.partition("/")
    if encoder != TRAINED:
        return ""
    low, high = result["probes"][probe]["gain_interval"]
    return f"{result['probes'][probe]['gain_over_random_init']:+.3f} [{low:+.3f}, {high:+.3f}]"


def _examples(task: Task, embedded: Embedded, comparison: Comparison, keys: Sequence[str]) -> str:
    """The volumes whose true class the headline probe found likeliest and least likely."""
    right_S = comparison.scores[f"{HEADLINE}/{TRAINED}"][np.arange(len(keys)), task.label_S]
    order = np.argsort(-right_S, kind="stable")
    shown = min(EXAMPLES, len(order) // 2)
    parts = ["<p>Out of fold: the true class, and the probability that the headline probe gave it.</p>"]
    for heading, chosen in (("Likeliest", order[:shown]), ("Least likely", order[::-1][:shown])):
        cards = [_card(embedded.slice_SYX[i], keys[i], f"{task.classes[task.label_S[i]]}: {right_S[i]:.2f}") for i in chosen]
        parts.append(f'<p>{heading}</p><div class="examples">{"".join(cards)}</div>')
    return "\n".join(parts)


def _card(slice_YX: NDArray[np.float32], key: str, text: str) -> str:
    picture = f'<img alt="middle slice" src="{figure_address(figures.picture(slice_YX))}">'
    return f"<figure>{picture}<figcaption>{escape(key[:24])}<br>{escape(text)}</figcaption></figure>"


def _method(result: Mapping[str, Any]) -> str:
    unit, seen = escape(result["unit"]), result["n_seen_in_pretraining"]
    known = "It was pretrained on another corpus." if seen is None else f"Pretraining saw {seen} of them, without labels."
    crop, grid = (" × ".join(map(str, result[key])) for key in ("size", "voxel_grid"))
    return f"""<ul>
<li>The {escape(result["encoder"])} of the run is frozen. Each volume passes it once, as one deterministic crop of
{crop} voxels. {known}</li>
<li>{result["folds"]} folds, disjoint by “{unit}” and stratified by class. Every score is of a volume whose fold the probe did
not see; the scores of all folds are pooled into one AUROC. With more than two classes it is the mean of one
against the rest.</li>
<li>Linear probe: mean over the tokens, standardised, logistic regression; its C is chosen by log loss on inner folds of the
training part. Attentive probe: one learned query, cross-attention, a small MLP; its epoch is chosen on a quarter of the
training part. Scaling and principal components are fitted on the training part. Nothing is chosen on test volumes.</li>
<li>Random encoder: the same network as this run initialised it, before the first step.
Raw voxels: the same crop averaged to {grid} cells.</li>
<li>Intervals: percentiles of {result["resamples"]} bootstrap resamples of whole units (“{unit}”), the same for all methods, so
that gains are paired. They hold the fitted probes fixed: the chance of another training set is not in them.</li>
<li>Seed {result["seed"]}; run “{escape(result["run"])}”, objective {escape(result["objective"])}, step {result["step"]}.</li>
</ul>"""
