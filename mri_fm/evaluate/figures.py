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

from mri_fm.evaluate.splits import Ints
from mri_fm.evaluate.statistics import Floats, roc_curve

COLOURS = {"trained": "#1f5fa8", "random_init": "#8a8f98", "raw_voxel": "#d9822b"}
CLASS_COLOURS = ("#1f5fa8", "#d9822b", "#2e8b57", "#b0413e", "#7a5aa6", "#6b6f76", "#c2a83e", "#3aa6a6")
GRID_RATES = np.linspace(0, 1, 201)


def colour(method: str) -> str:
    """The colour of a method by what its features come from."""
    return COLOURS[method.split("/")[-1]]


def roc_figure(label_S: Ints, scores: Mapping[str, Floats], titles: Mapping[str, str], aurocs: Mapping[str, float]) -> Figure:
    """ROC curves of all methods; with more than two classes, the mean of the one-against-rest curves."""
    figure = Figure(figsize=(5.2, 4.9), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="#c9ccd1", linewidth=1, linestyle=":")
    for method, score_SK in scores.items():
        style = "--" if method.startswith("attentive") else "-"
        axes.plot(*_mean_curve(label_S, score_SK), style, color=colour(method), label=f"{titles[method]}: {aurocs[method]:.2f}")
    axes.set(xlabel="false positive rate", ylabel="true positive rate", xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    axes.legend(fontsize=7.5, loc="lower right", frameon=False)
    _plain(axes)
    return figure


def _mean_curve(label_S: Ints, score_SK: Floats) -> tuple[Floats, Floats]:
    classes = score_SK.shape[1]
    if classes == 2:
        return roc_curve(label_S == 1, score_SK[:, 1])
    curves = [roc_curve(label_S == k, score_SK[:, k]) for k in range(classes)]
    return GRID_RATES, np.mean([np.interp(GRID_RATES, false_G, true_G) for false_G, true_G in curves], axis=0)


def forest_figure(titles: Mapping[str, str], aurocs: Mapping[str, float], intervals: Mapping[str, Sequence[float]]) -> Figure:
    """One line per method: AUROC and its interval, beside chance."""
    figure = Figure(figsize=(7.2, 0.45 * len(titles) + 0.8), layout="constrained")
    axes = figure.subplots()
    upward = list(titles)[::-1]
    axes.axvline(0.5, color="#c9ccd1", linewidth=1, linestyle=":")
    for row, method in enumerate(upward):
        axes.plot(intervals[method], [row, row], color=colour(method), linewidth=2.5, solid_capstyle="round")
        axes.plot(aurocs[method], row, "o", color=colour(method), markersize=8, markeredgecolor="white")
    axes.set_yticks(range(len(titles)), [titles[method] for method in upward])
    axes.set(xlabel="AUROC with 95 % interval (dotted: chance)", ylim=(-0.6, len(titles) - 0.4))
    _plain(axes)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    return figure


def map_figure(
    pooled: Mapping[str, NDArray[np.float32]], titles: Mapping[str, str], label_S: Ints, classes: Sequence[str]
) -> Figure:
    """The first two principal components of each encoder's mean-pooled embeddings, coloured by class."""
    figure = Figure(figsize=(3.9 * len(pooled) + 0.8, 3.7), layout="constrained")
    for axes, (name, pooled_SD) in zip(figure.subplots(1, len(pooled)), pooled.items(), strict=True):
        pca = PCA(2, svd_solver="full").fit(pooled_SD)
        point_S2 = pca.transform(pooled_SD)
        for number, title in enumerate(classes):
            axes.scatter(*point_S2[label_S == number].T, s=22, alpha=0.8, linewidths=0, label=title,
                         color=CLASS_COLOURS[number % len(CLASS_COLOURS)])  # fmt: skip
        first, second = pca.explained_variance_ratio_
        axes.set(
            title=titles[name], xlabel=f"component 1 ({first:.0%})", ylabel=f"component 2 ({second:.0%})", xticks=[], yticks=[]
        )
        _plain(axes)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
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
