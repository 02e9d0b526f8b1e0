"""The figure of the training runs: claim 1 above, claim 2 below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from pretraining.runs import Measures

from claims.gradients import agreement, cosine, ratio
from claims.measures import correlation, power
from claims.power import BANDS
from claims.tables import Curves, at, modes_of, pooled
from claims.verdicts import seed_means


def draw(mae: Curves, jepa: Curves, file: Path) -> None:
    """Both rows; a claim without finished runs leaves its row empty."""
    figure, grid = plt.subplots(2, 4, figsize=(18, 8))
    if mae:
        _draw_gradients(grid[0, 0], grid[0, 1], mae)
        _draw_bands(grid[0, 2], at(mae, _last(mae)), power, "power of hidden patches over the truth's")
        _draw_bands(grid[0, 3], at(mae, _last(mae)), correlation, "their correlation with the truth")
        grid[0, 3].legend(fontsize=7)
    if jepa:
        _draw_eigenvalues(grid[1, 0], jepa)
        _draw_rank(grid[1, 1], jepa)
        _draw_over_steps(grid[1, 2], jepa, "teacher people std", "std of the teacher's features over people")
        _draw_over_steps(grid[1, 3], jepa, "agreement", "cosine of student's and teacher's tokens")
        grid[1, 3].legend(fontsize=7)
        grid[1, 2].set_yscale("log")
    figure.tight_layout()
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=70)


def _last(curves: Curves) -> int:
    return max(next(iter(curves.values()))[0])


def _draw_gradients(of_ratio: Axes, of_cosine: Axes, curves: Curves) -> None:
    """Ratio and cosine in the encoder over steps, by arm in its own mode; dashed what λ = 0 would have of the radial one."""
    for number, (arm, runs) in enumerate(curves.items()):
        for style, mode in zip("-:", modes_of(arm), strict=False):
            label = f"{arm} ({mode})" if style == ":" else arm
            for axes, name in ((of_ratio, ratio(mode, "encoder")), (of_cosine, cosine(mode, "encoder"))):
                _line(axes, runs, name, f"C{number}", label, style)
    without = next(iter(curves.values()))
    if without[0][0][agreement("encoder")]:
        _line(of_cosine, without, agreement("encoder"), "black", "voxel error, two batches", "--")
    of_ratio.set(title="spectral gradient / voxel error's, encoder", xlabel="step", yscale="log")
    of_cosine.set(title="their cosine", xlabel="step")
    of_cosine.axhline(0, color="grey", lw=0.5)
    of_cosine.legend(fontsize=6)


def _line(axes: Axes, runs: Sequence[Mapping[int, Measures]], name: str, color: str, label: str, style: str) -> None:
    """Mean and standard deviation over seeds."""
    steps = sorted(runs[0])
    values = np.array([seed_means([run[step] for run in runs], name) for step in steps])
    axes.errorbar(steps, values.mean(1), values.std(1), color=color, ls=style, marker="o", ms=3, lw=1, label=label)


def _draw_bands(axes: Axes, last: Mapping[str, Sequence[Measures]], name_of, title: str) -> None:
    """By band, mean and standard deviation over people and seeds."""
    for number, (arm, by_seed) in enumerate(last.items()):
        values = [pooled(by_seed, name_of(band)) for band in range(len(BANDS))]
        places = np.arange(len(BANDS)) + (number - len(last) / 2) / 20
        axes.errorbar(places, np.mean(values, 1), np.std(values, 1), color=f"C{number}", marker="o", ms=3, lw=1, label=arm)
    axes.set_xticks(range(len(BANDS)), [f"{low:g}–{high:g}" for low, high in BANDS])
    axes.set(title=title, xlabel="share of the largest frequency")
    if name_of is power:
        axes.set_yscale("log")
        axes.axhline(1, color="grey", lw=0.5)


def _draw_eigenvalues(axes: Axes, curves: Curves) -> None:
    """Of the teacher's covariance over the views, mean over seeds."""
    first, last = 0, _last(curves)
    random = next(iter(curves.values()))
    spectra = {"random": [run[first] for run in random], **at(curves, last)}
    for number, (arm, by_seed) in enumerate(spectra.items()):
        values = np.mean([m["teacher views eigenvalues"] for m in by_seed], axis=0)
        axes.loglog(np.arange(1, len(values) + 1), np.maximum(values, 1e-9), color=_color(number), lw=1, label=arm)
    axes.set(title="covariance of the teacher's features, views", xlabel="direction", ylabel="eigenvalue")


def _draw_rank(axes: Axes, curves: Curves) -> None:
    """Effective rank and standard deviation over the views, a dot for each seed."""
    spectra = {"random": [run[0] for run in next(iter(curves.values()))], **at(curves, _last(curves))}
    for number, (arm, by_seed) in enumerate(spectra.items()):
        std, rank = (seed_means(by_seed, f"teacher views {name}") for name in ("std", "effective_rank"))
        axes.plot(std, rank, "o", color=_color(number), ms=4, label=arm)
    axes.set(title="teacher, views, each seed", xlabel="std over volumes", ylabel="effective rank", xscale="log", yscale="log")


def _draw_over_steps(axes: Axes, curves: Curves, name: str, title: str) -> None:
    for number, (arm, runs) in enumerate(curves.items(), start=1):
        _line(axes, runs, name, _color(number), arm, "-")
    axes.set(title=title, xlabel="step")


def _color(number: int) -> str:
    return "black" if number == 0 else f"C{number - 1}"
