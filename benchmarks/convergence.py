"""Does a faster recipe learn as well? Loss curves and frozen-probe curves of pretraining runs, on one corpus, at equal steps.

    python benchmarks/convergence.py --bids BIDS          # hours on a CPU core; what is finished is not done again
    python benchmarks/convergence.py --bids BIDS --objectives mae --seeds 0 --steps 40 --checkpoints 2

The corpus is built and the runs are made by the real commands. Arms: `recipe=paper`; the default; the default with token
budgets of 60 % and 45 % (`jepa_vcr` then takes statistics over all tokens, since their slots are not aligned); for MAE also
"volume", the default with the paper's z-score over the whole crop, without and with the budgets, to tell the two apart. Every
checkpoint, and the network before its first step, is probed as `python -m mri_fm.evaluate` does it: linear probes on
mean-pooled tokens, folds disjoint by subject, all choices made inside the training part of a fold; here over several divisions
into folds.

Said before the runs: an arm is *no worse* than `paper` within the interval if the 95 % bootstrap interval, over subjects and
paired, of its AUROC minus `paper`'s (mean over seeds and divisions, at the last checkpoint) reaches 0 or more. How large a loss
could hide in it is its lower end, which the table gives.

Without --bids it says so and ends. Prints Markdown for `benchmarks/results/convergence.md` and draws convergence.png.
"""

from __future__ import annotations

import argparse
import sys

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from pretraining.report import (
    Arms,
    chance,
    draw_losses,
    draw_probes,
    figure_file,
    finished_arms,
    heading,
    last_val_loss,
    probe_cells,
    probes,
    table,
)
from pretraining.runs import Bench, Run, add_options, bench_of, build_corpus, spectral_run, train_all
from pretraining.voxels import voxel_curve

from mri_fm.config import config_from_yaml
from mri_fm.data.corpus import Corpus
from mri_fm.data.survey import foreground_tokens
from mri_fm.models.vit import as_size3
from mri_fm.token_budget import count_kept, lost_share

REFERENCES = ("paper", "default")
SHARES = {"60 %": 0.6, "45 %": 0.45}


def arms_of(objective: str, seeds: list[int]) -> dict[str, list[Run]]:
    """Runs by arm; the first is what the others are compared with. The spectral weight is the paper's in all of them."""
    weight = ("objective.spectral_weight=0.01",) if objective == "mae_spectral" else ()
    pooled = ("objective.shared_mask=false",) if objective == "jepa_vcr" else ()
    arms = {"paper": [Run(objective, "paper", ("recipe=paper",), seed) for seed in seeds]}
    plain = [spectral_run(0.01, seed) if weight else Run(objective, "default", (), seed) for seed in seeds]
    for name, share in SHARES.items():
        words = (f"objective.token_budget={share}", *pooled, *weight)
        arms[name] = [Run(objective, f"budget{share:g}", words, seed) for seed in seeds]
    if objective.startswith("mae"):
        whole_crop = ("data.statistics=volume", *weight)
        arms["volume"] = [Run(objective, "volume", whole_crop, seed) for seed in seeds]
        for name, share in SHARES.items():
            words = ("data.statistics=volume", f"objective.token_budget={share}", *weight)
            arms[f"volume, {name}"] = [Run(objective, f"volume-budget{share:g}", words, seed) for seed in seeds]
    return {"paper": arms.pop("paper"), "default": plain, **arms}


def dropped(bench: Bench, run: Run) -> str:
    """The share of the corpus' foreground that a run's budget leaves out on each pass."""
    config = config_from_yaml(bench.folder(run) / "config.yaml")
    corpus = Corpus.open(bench.corpus, "size")
    foreground_S = foreground_tokens(corpus, corpus.select("train"), config.data, as_size3(config.model.patch))
    tokens = int(np.prod(bench.size) // np.prod(config.model.patch))
    return f"{lost_share(foreground_S, count_kept(tokens, config.objective.token_budget)):.1%}"


def explained(bench: Bench, runs: list[Run]) -> np.ndarray:
    """Variance of hidden foreground explained at each checkpoint, mean over volumes, masks and seeds."""
    curves = [voxel_curve(bench, run) for run in runs]
    return np.array([np.mean([curve[step]["explained"] for curve in curves]) for step in bench.checkpoint_steps])


def rows_of(bench: Bench, objective: str, arms: Arms, labels: list[str]) -> list[list[str]]:
    scores = probes(bench, arms, labels)
    cells = {label: probe_cells(bench, scores, label, REFERENCES) for label in labels}
    rows = []
    for arm, runs in arms.items():
        variance = f"{explained(bench, list(runs))[-1]:.3f}" if objective.startswith("mae") else ""
        row = [objective, arm, dropped(bench, runs[0]), f"{last_val_loss(bench, runs):.4f}", variance]
        rows.append(row + [cell for label in labels for cell in cells[label][arm]])
    return rows


def draw_features(axes: Axes, bench: Bench, objective: str, arms: Arms) -> None:
    """What can be compared between ways of z-scoring: explained variance, or for a JEPA the rank of its features."""
    for number, (arm, runs) in enumerate(arms.items()):
        if objective.startswith("mae"):
            steps, values = bench.checkpoint_steps, explained(bench, list(runs))
        else:
            records = [[r for r in bench.records(run) if "rankme" in r] for run in runs]
            steps, values = [r["step"] for r in records[0]], np.mean([[r["rankme"] for r in rows] for rows in records], axis=0)
        axes.plot(steps, values, "o-", color=f"C{number}", lw=1, ms=3, label=arm)
    what = "variance of hidden foreground explained, val" if objective.startswith("mae") else "RankMe of 16 volumes"
    axes.set(title=what, xlabel="step")


def draw(bench: Bench, finished: dict[str, Arms], labels: list[str], options: argparse.Namespace) -> None:
    columns = 2 + len(labels)
    figure, grid = plt.subplots(len(finished), columns, figsize=(4.2 * columns, 3.2 * len(finished)), squeeze=False)
    for line, (objective, arms) in zip(grid, finished.items(), strict=True):
        draw_losses(line[0], bench, arms, objective)
        draw_features(line[1], bench, objective, arms)
        scores = probes(bench, arms, labels)
        for axes, label in zip(line[2:], labels, strict=True):
            draw_probes(axes, bench, scores, label)
        line[2].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(figure_file(options.figures, "convergence.png"), dpi=80)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--objectives", nargs="+", default=["jepa_vcr", "mae", "mae_spectral"])
    return parser.parse_args()


def main() -> int:
    """The command line."""
    options = parse()
    if options.bids is None:
        print("benchmarks/convergence.py: skipped, it needs --bids FOLDER with a participants.tsv")
        return 0
    bench, labels = bench_of(options), options.labels
    build_corpus(options.bids, bench)
    asked = {objective: arms_of(objective, options.seeds) for objective in options.objectives}
    train_all(
        bench, [run for arms in asked.values() for runs in zip(*arms.values(), strict=True) for run in runs], options.minutes
    )
    finished = {objective: arms for objective in asked if (arms := finished_arms(bench, asked[objective]))}
    if not finished:
        print("no objective has all its arms finished yet: start again, what is finished is kept")
        return 0
    header = ["objective", "arm", "foreground dropped", "val loss, own scale", "variance explained"]
    header += [f"{label}{part}" for label in labels for part in (" AUROC", *(f" − {arm}" for arm in REFERENCES))]
    print(heading(bench, next(iter(finished.values())), labels))
    print(table(header, [row for objective, arms in finished.items() for row in rows_of(bench, objective, arms, labels)]))
    for arms in finished.values():
        print(chance(bench, arms["default"][0], labels))
    draw(bench, finished, labels, options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
