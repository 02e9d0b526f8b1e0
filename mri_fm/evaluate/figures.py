"""Pictures of the report.

Axes: S samples (volumes), K classes, D width, Y/X pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from mri_fm.evaluate.metrics import Scores, roc_curve
from mri_fm.evaluate.target import Floats, Ints, Target

COLOURS = {
    "trained": "#1f5fa8", "random_init": "#8a8f98", "raw_voxel": "#d9822b", "nuisance": "#b0413e", "supervised": "#2e8b57"
}  # fmt: skip
STYLES = {"linear": "-", "attentive": "--", "neighbours": ":", "regions": "-."}
CLASS_COLOURS = ("#1f5fa8", "#d9822b", "#2e8b57", "#b0413e", "#7a5aa6", "#6b6f76", "#c2a83e", "#3aa6a6")
GRID_RATES = np.linspace(0, 1, 201)


def colour(method: str) -> str:
    """The colour of a method by what its features come from."""
    return COLOURS.get(method.split("/")[-1], "#7a5aa6")


def roc_figure(scores: Mapping[str, Scores], titles: Mapping[str, str], aurocs: Mapping[str, float]) -> Figure:
    """ROC curves of some methods; with more than two classes, the mean of the one-against-rest curves."""
    figure = Figure(figsize=(5.6, 5.4), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="#c9ccd1", linewidth=1, linestyle=":")
    for method, found in scores.items():
        style = STYLES.get(method.split("/")[0], "-")
        false_G, true_G = _mean_curve(found.target.labels, found.score_SK)
        axes.plot(false_G, true_G, style, color=colour(method), label=f"{titles[method]}: {aurocs[method]:.2f}")
    axes.set(xlabel="false positive rate", ylabel="true positive rate", xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    axes.legend(fontsize=6.5, loc="lower right", frameon=False)
    _plain(axes)
    return figure


def reliability_figure(calibration: Mapping[str, Any]) -> Figure:
    """Share decided rightly over confidence, before and after the temperature."""
    figure = Figure(figsize=(4.6, 4.6), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="#c9ccd1", linewidth=1, linestyle=":")
    for (name, bins), shade in zip(calibration.items(), ("#1f5fa8", "#d9822b"), strict=True):
        axes.plot([b["confidence"] for b in bins], [b["accuracy"] for b in bins], "o-", color=shade, label=name, markersize=4)
    least = min(b["confidence"] for bins in calibration.values() for b in bins)
    axes.set(xlabel="confidence", ylabel="share decided rightly", xlim=(least - 0.02, 1.01), ylim=(-0.01, 1.01))
    axes.legend(frameon=False, fontsize=8)
    _plain(axes)
    return figure


def scatter_figure(scores: Scores, kind: str) -> Figure:
    """Truth against prediction; of survival, time against log hazard, events filled."""
    figure = Figure(figsize=(4.8, 4.6), layout="constrained")
    axes = figure.subplots()
    value_S, score_S = scores.target.value_S, scores.score_SK[:, 0]
    if kind == "regression":
        ends = [min(value_S.min(), score_S.min()), max(value_S.max(), score_S.max())]
        axes.plot(ends, ends, color="#c9ccd1", linewidth=1, linestyle=":")
        axes.scatter(value_S, score_S, s=22, alpha=0.8, linewidths=0, color=CLASS_COLOURS[0])
        axes.set(xlabel="truth", ylabel="out-of-fold prediction")
    else:
        for seen, fill, label in ((True, CLASS_COLOURS[0], "event"), (False, "none", "censored")):
            rows = scores.target.event_S == seen
            axes.scatter(value_S[rows], score_S[rows], s=22, facecolors=fill, edgecolors=CLASS_COLOURS[0], label=label)
        axes.set(xlabel="time", ylabel="log hazard")
        axes.legend(frameon=False, fontsize=8)
    _plain(axes)
    return figure


def _mean_curve(label_S: Ints, score_SK: Floats) -> tuple[Floats, Floats]:
    classes = score_SK.shape[1]
    if classes == 2:
        return roc_curve(label_S == 1, score_SK[:, 1])
    curves = [roc_curve(label_S == k, score_SK[:, k]) for k in range(classes)]
    return GRID_RATES, np.mean([np.interp(GRID_RATES, false_G, true_G) for false_G, true_G in curves], axis=0)


def curve_figure(curve: Sequence[Mapping[str, Any]], titles: Mapping[str, str], metric: str, counted: str) -> Figure:
    """A metric over the number of training units, `counted` per class or in all, with the spread over draws."""
    figure = Figure(figsize=(5.4, 3.8), layout="constrained")
    axes = figure.subplots()
    size = [record["per_class"] for record in curve]
    for method, title in titles.items():
        low, high = zip(*(record[method]["interval"] for record in curve), strict=True)
        axes.plot(size, [record[method]["value"] for record in curve], "o-", color=colour(method), label=title, markersize=4)
        axes.fill_between(size, low, high, color=colour(method), alpha=0.15, linewidth=0)
    axes.set_xscale("log", base=2)
    axes.set_xticks(size, [str(n) for n in size])
    axes.set(xlabel=counted, ylabel=metric)
    axes.legend(frameon=False, fontsize=8)
    _plain(axes)
    return figure


def forest_figure(
    titles: Mapping[str, str],
    values: Mapping[str, float],
    intervals: Mapping[str, Sequence[float]],
    metric: str,
    chance: float | None = None,
) -> Figure:
    """One line per method: its value and interval, beside chance."""
    figure = Figure(figsize=(7.6, 0.36 * len(titles) + 0.8), layout="constrained")
    axes = figure.subplots()
    upward = list(titles)[::-1]
    if chance is not None:
        axes.axvline(chance, color="#c9ccd1", linewidth=1, linestyle=":")
    for row, method in enumerate(upward):
        axes.plot(intervals[method], [row, row], color=colour(method), linewidth=2.5, solid_capstyle="round")
        axes.plot(values[method], row, "o", color=colour(method), markersize=7, markeredgecolor="white")
    axes.set_yticks(range(len(titles)), [titles[method] for method in upward])
    axes.set(xlabel=f"{metric} with 95 % interval" + (" (dotted: chance)" if chance is not None else ""))
    axes.set_ylim(-0.6, len(titles) - 0.4)
    _plain(axes)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    return figure


def map_figure(pooled: Mapping[str, Floats], target: Target) -> Figure:
    """The first two principal components of each encoder's mean-pooled embeddings, coloured by class or value."""
    figure = Figure(figsize=(3.9 * len(pooled) + 1.2, 3.7), layout="constrained")
    for axes, (name, pooled_SD) in zip(figure.subplots(1, len(pooled)), pooled.items(), strict=True):
        pca = PCA(2, svd_solver="full").fit(pooled_SD)
        point_S2 = pca.transform(pooled_SD)
        for number, title in enumerate(target.classes):
            axes.scatter(*point_S2[target.labels == number].T, s=22, alpha=0.8, linewidths=0, label=title,
                         color=CLASS_COLOURS[number % len(CLASS_COLOURS)])  # fmt: skip
        if not target.classes:
            dots = axes.scatter(*point_S2.T, s=22, alpha=0.8, linewidths=0, c=target.value_S, cmap="viridis")
        first, second = pca.explained_variance_ratio_
        axes.set(
            title=f"{name} encoder",
            xlabel=f"component 1 ({first:.0%})",
            ylabel=f"component 2 ({second:.0%})",
            xticks=[],
            yticks=[],
        )
        _plain(axes)
    if target.classes:
        axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    else:
        figure.colorbar(dots, ax=axes)
    return figure


def picture(slice_YX: NDArray[np.float32]) -> Figure:
    """A slice in grey, superior up."""
    low, high = np.percentile(slice_YX, [1, 99.5])
    figure = Figure(figsize=(1.4, 1.4 * slice_YX.shape[0] / slice_YX.shape[1]))
    axes: Any = figure.add_axes((0, 0, 1, 1))
    axes.imshow(slice_YX, cmap="gray", vmin=low, vmax=high, origin="lower")
    axes.set_axis_off()
    return figure


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
