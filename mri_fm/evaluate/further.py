"""The parts of the report beside the table: confounders, subgroups, the learning curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from mri_fm.evaluate import figures
from mri_fm.evaluate.methods import title_of
from mri_fm.evaluate.metrics import NAMES
from mri_fm.observe.page import html_image, html_table

LINES = {
    "without_age_and_sex": "without the linear part of {columns}",
    "harmonised": "ComBat over the site, keeping {columns}",
    "unseen_sites": "folds disjoint by site ({sites} sites)",
    "site_from_embedding": "AUROC of the site itself ({sites} sites; 0.5: it cannot be read)",
}
NOT_DONE = {
    "without_age_and_sex": "without age and sex",
    "harmonised": "ComBat",
    "unseen_sites": "folds disjoint by site",
    "site_from_embedding": "AUROC of the site",
}


def sections(result: Mapping[str, Any]) -> str:
    """All of them as HTML."""
    return "\n".join([_confounders(result), _subgroups(result), _curve(result)])


def _confounders(result: Mapping[str, Any]) -> str:
    metric, found = result["metric"], result["confounders"]
    rows = [["headline probe, as it is", *_figure(result, metric)]]
    for key, text in LINES.items():
        if key in found:
            words = {"columns": ", ".join(found[key].get("columns", ())) or "nothing", "sites": found[key].get("sites")}
            rows.append([text.format(**words), *_figure(found[key], "auroc" if key == "site_from_embedding" else metric)])
    left = {NOT_DONE[key]: reason for key, reason in found["not_done"].items()}
    notes = [f"{name}: {reason}" for name, reason in {**result["covariates"], **left}.items()]
    listed = f'<p class="note">Not done or incomplete: {escape("; ".join(notes))}.</p>' if notes else ""
    return f"""<h2>Confounders</h2>{html_table(("headline probe", NAMES[metric], "95 % interval"), rows)}
{listed}<p>{escape(result["audit"].capitalize())}.</p>"""


def _figure(found: Mapping[str, Any], metric: str) -> list[str]:
    low, high = found["interval"]
    return [f"{found[metric]:.3f}", f"[{low:.3f}, {high:.3f}]"]


def _subgroups(result: Mapping[str, Any]) -> str:
    metric, lines = result["metric"], result["subgroups"]
    if not lines:
        return ""
    rows = [
        [line["column"], line["value"], str(line["n"]), *(_figure(line, metric) if metric in line else ["", "too few units"])]
        for line in lines
    ]
    return f"<h2>Subgroups</h2>{html_table(('by', 'value', 'units', NAMES[metric], '95 % interval'), rows)}"


def _curve(result: Mapping[str, Any]) -> str:
    curve: Sequence[Mapping[str, Any]] = result["learning_curve"]
    if not curve:
        small = (
            "None for times to an event." if result["kind"] == "survival" else "No training part has 8 units of every class."
        )
        return f"<h2>Learning curve</h2><p>{small}</p>"
    titles = {method: title_of(method) for method in curve[0] if method != "per_class"}
    counted = "training units per class" if result["classes"] else "training units"
    picture = html_image(figures.curve_figure(curve, titles, NAMES[result["metric"]], counted), "learning curve")
    return f"<h2>Learning curve</h2>{picture}<p>The band spans six draws of the training units.</p>"
