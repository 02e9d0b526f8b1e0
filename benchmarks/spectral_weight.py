"""How heavy may the spectral loss be? `mae_spectral` under several weights λ, same seeds, equal steps, one corpus.

    python benchmarks/spectral_weight.py --bids BIDS      # an hour on a CPU core; what is finished is not done again

λ = 0 is `mae`: same masks, same initial weights. Each run is measured on the corpus' val split, whose people no run has seen:
the voxel error on hidden voxels, the error of the spectrum by bands of frequency, the norm of the spectral gradient over that
of the voxel error's. Frozen probes of the same runs stand beside them.

The rule, written before the runs: the default λ is the largest of those tried whose voxel error on the val split, at the last
step and averaged over seeds, is at most 1 % above that of λ = 0, and whose error of the log-magnitudes above the cut-off is
below that of λ = 0; if none is, 0.01 stays, the published weight. Probes are reported and choose nothing, since the people they
are tested on would then have taken part in the choice.

Without --bids it says so and ends. Prints Markdown for `benchmarks/results/spectral_weight.md` and draws spectral_weight.png.
"""

from __future__ import annotations

import argparse
import sys

import matplotlib.pyplot as plt
import numpy as np
from pretraining.report import Arms, draw_losses, draw_probes, figure_file, finished_arms, heading, probe_cells, probes, table
from pretraining.runs import Bench, Run, add_options, bench_of, build_corpus, spectral_run, train_all
from pretraining.voxels import ABOVE_CUTOFF, BANDS, Measures, log_magnitude, relative, voxel_curve

WEIGHTS = (0.0, 0.01, 0.03, 0.1, 1.0)
TOLERANCE = 0.01
PUBLISHED = 0.01
Measured = dict[float, list[Measures]]
"""What each seed's run of a weight reconstructs at the last step."""


def mean(measures: list[Measures], name: str) -> float:
    return float(np.mean([values[name] for values in measures]))


def excess(measured: Measured, weight: float) -> float:
    """Voxel error over that of λ = 0, minus 1."""
    return mean(measured[weight], "voxel_error") / mean(measured[0.0], "voxel_error") - 1


def choose(measured: Measured) -> float:
    """The rule at the top of this file."""
    spectral = {weight: mean(values, log_magnitude(ABOVE_CUTOFF)) for weight, values in measured.items()}
    fit = [w for w in measured if w > 0 and excess(measured, w) <= TOLERANCE and spectral[w] < spectral[0.0]]
    return max(fit, default=PUBLISHED)


def seed_range(measured: Measured, weight: float) -> str:
    """The excess under each seed by itself."""
    pairs = zip(measured[weight], measured[0.0], strict=True)
    return ", ".join(f"{mean([a], 'voxel_error') / mean([b], 'voxel_error') - 1:+.1%}" for a, b in pairs)


def reconstruction_rows(measured: Measured) -> list[list[str]]:
    rows = []
    for weight, values in measured.items():
        ratio = mean(values, "gradient_ratio")
        row = [
            f"{weight:g}",
            f"{mean(values, 'voxel_error'):.4f}",
            f"{excess(measured, weight):+.1%}",
            seed_range(measured, weight),
        ]
        bands = [f"{mean(values, log_magnitude(band)):.3f}" for band in (ABOVE_CUTOFF, *BANDS)]
        rows.append([*row, *bands, f"{ratio:.0f}", f"{weight * ratio:.2g}"])
    return rows


def probe_rows(bench: Bench, arms: Arms, labels: list[str]) -> list[list[str]]:
    scores = probes(bench, arms, labels)
    cells = {label: probe_cells(bench, scores, label) for label in labels}
    return [[arm, *(cell for label in labels for cell in cells[label][arm])] for arm in arms]


def draw(bench: Bench, arms: Arms, measured: Measured, labels: list[str], options: argparse.Namespace) -> None:
    figure, (losses, error, bands, *rest) = plt.subplots(1, 3 + len(labels), figsize=(4.2 * (3 + len(labels)), 3.4))
    draw_losses(losses, bench, arms, "whole loss, λ included")
    for number, (arm, runs) in enumerate(arms.items()):
        curves = [voxel_curve(bench, run) for run in runs]
        error.plot(
            bench.checkpoint_steps,
            [mean([c[s] for c in curves], "voxel_error") for s in bench.checkpoint_steps],
            "o-",
            ms=3,
            label=arm,
        )
        bands.plot(range(len(BANDS)), [mean(list(measured.values())[number], relative(band)) for band in BANDS], "o-", ms=3)
    error.set(title="error of hidden voxels, val", xlabel="step")
    bands.set(title="Σ|R − G|² / Σ|G|², val, last step", xlabel="share of the largest frequency", yscale="log")
    bands.set_xticks(range(len(BANDS)), [f"{low:g}–{high:g}" for low, high in BANDS])
    scores = probes(bench, arms, labels)
    for axes, label in zip(rest, labels, strict=True):
        draw_probes(axes, bench, scores, label)
    figure.tight_layout()
    figure.savefig(figure_file(options.figures, "spectral_weight.png"), dpi=80)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    return parser.parse_args()


def main() -> int:
    """The command line."""
    options = parse()
    if options.bids is None:
        print("benchmarks/spectral_weight.py: skipped, it needs --bids FOLDER with a participants.tsv")
        return 0
    bench, labels = bench_of(options), options.labels
    build_corpus(options.bids, bench)
    asked = {weight: [spectral_run(weight, seed) for seed in options.seeds] for weight in WEIGHTS}
    train_all(bench, [run for runs in zip(*asked.values(), strict=True) for run in runs], options.minutes)
    finished = finished_arms(bench, {f"λ {weight:g}": runs for weight, runs in asked.items()})
    if not finished:
        print("not all weights are finished under any seed yet: start again, what is finished is kept")
        return 0
    report(bench, finished, labels, options)
    return 0


def report(bench: Bench, arms: dict[str, list[Run]], labels: list[str], options: argparse.Namespace) -> None:
    """Print the tables and the choice, draw the figure."""
    measured = {
        w: [voxel_curve(bench, run)[bench.steps] for run in runs] for w, runs in zip(WEIGHTS, arms.values(), strict=True)
    }
    header = ["λ", "voxel error", "over λ = 0", "by seed", "log-magnitudes above 0.3"]
    header += [f"{low:g}–{high:g}" for low, high in BANDS] + ["gradient ratio", "λ · ratio"]
    print(heading(bench, arms, labels))
    print(table(header, reconstruction_rows(measured)))
    print(f"By the rule: λ = {choose(measured):g}.\n")
    parts = [f"{label}{part}" for label in labels for part in (" AUROC", " − λ 0")]
    print(table(["", *parts], probe_rows(bench, arms, labels)))
    draw(bench, arms, measured, labels, options)


if __name__ == "__main__":
    sys.exit(main())
