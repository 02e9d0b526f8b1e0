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
from collections.abc import Iterable

import matplotlib.pyplot as plt
import numpy as np
from pretraining.report import (
    Arms,
    chance,
    draw_losses,
    draw_probes,
    figure_file,
    finished_arms,
    heading,
    probe_cells,
    probes,
    table,
)
from pretraining.runs import Bench, Measures, Run, add_options, bench_of, build_corpus, spectral_run, train_all
from pretraining.voxels import ABOVE_CUTOFF, BANDS, log_magnitude, relative, voxel_curve

WEIGHTS = (0.0, 0.01, 0.03, 0.1, 1.0)
TOLERANCE = 0.01
PUBLISHED = 0.01
Measured = dict[float, dict[int, Measures]]
"""What the runs of a weight reconstruct at the last step, by seed."""


def mean(measures: Iterable[Measures], name: str) -> float:
    return float(np.mean([values[name] for values in measures]))


def excess_by_seed(measured: Measured, weight: float, name: str) -> list[float]:
    """A measure over that of λ = 0 under the same seed, minus 1."""
    return [mean([m], name) / mean([measured[0.0][seed]], name) - 1 for seed, m in measured[weight].items()]


def excess(measured: Measured, weight: float, name: str) -> float:
    return float(np.mean(excess_by_seed(measured, weight, name)))


def choose(measured: Measured) -> float:
    """The rule at the top of this file."""
    spectrum = log_magnitude(ABOVE_CUTOFF)
    affordable = [w for w in measured if w > 0 and excess(measured, w, "voxel_error") <= TOLERANCE]
    return max((w for w in affordable if excess(measured, w, spectrum) < 0), default=PUBLISHED)


def reconstruction_rows(measured: Measured) -> list[list[str]]:
    rows = []
    for weight, by_seed in measured.items():
        values = list(by_seed.values())
        ratio = mean(values, "gradient_ratio")
        over = ", ".join(f"{x:+.1%}" for x in excess_by_seed(measured, weight, "voxel_error"))
        bands = [f"{mean(values, log_magnitude(band)):.3f}" for band in (ABOVE_CUTOFF, *BANDS)]
        rows.append(
            [f"{weight:g}", f"{mean(values, 'voxel_error'):.4f}", over, *bands, f"{ratio:.0f}", f"{weight * ratio:.2g}"]
        )
    return rows


def probe_rows(bench: Bench, arms: Arms, labels: list[str]) -> list[list[str]]:
    scores = probes(bench, arms, labels)
    cells = {label: probe_cells(bench, scores, label, [next(iter(arms))]) for label in labels}
    return [[arm, *(cell for label in labels for cell in cells[label][arm])] for arm in arms]


def draw(bench: Bench, arms: Arms, measured: Measured, options: argparse.Namespace) -> None:
    labels = options.labels
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
        bands.plot(range(len(BANDS)), [mean(measured[WEIGHTS[number]].values(), relative(band)) for band in BANDS], "o-", ms=3)
    losses.set(yscale="log")
    error.set(title="error of hidden voxels, val", xlabel="step", yscale="log")
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
    bench = bench_of(options)
    build_corpus(options.bids, bench)
    asked = {weight: [spectral_run(weight, seed) for seed in options.seeds] for weight in WEIGHTS}
    train_all(bench, [run for runs in zip(*asked.values(), strict=True) for run in runs], options.minutes)
    common = finished_arms(bench, {f"λ {weight:g}": runs for weight, runs in asked.items()})
    if not common:
        print("not all weights are finished under any seed yet: start again, what is finished is kept")
        return 0
    measured = {weight: _measured(bench, runs, asked[0.0]) for weight, runs in asked.items()}
    report(bench, common, measured, options)
    return 0


def _measured(bench: Bench, runs: list[Run], baseline: list[Run]) -> dict[int, Measures]:
    """Of each seed under which the run and that of λ = 0 are finished."""
    pairs = zip(runs, baseline, strict=True)
    return {
        run.seed: voxel_curve(bench, run)[bench.steps] for run, base in pairs if bench.finished(run) and bench.finished(base)
    }


def report(bench: Bench, arms: Arms, measured: Measured, options: argparse.Namespace) -> None:
    """Print the tables and the choice, draw the figure; `arms` are of the seeds under which every weight is finished."""
    header = ["λ", "voxel error", "over λ = 0, by seed", "log-magnitudes above 0.3"]
    header += [f"{low:g}–{high:g}" for low, high in BANDS] + ["gradient ratio", "λ · ratio"]
    print(heading(bench, arms, options.labels))
    print(table(header, reconstruction_rows(measured)))
    print(f"By the rule: λ = {choose(measured):g}.\n")
    parts = [f"{label}{part}" for label in options.labels for part in (" AUROC", " − λ 0")]
    print(table(["", *parts], probe_rows(bench, arms, options.labels)))
    print(chance(bench, next(iter(arms.values()))[0], options.labels))
    draw(bench, arms, measured, options)


if __name__ == "__main__":
    sys.exit(main())
