"""Which reconstructions does each spectral mode reward, how hard does it pull, and does it pull with the voxel error?

    python benchmarks/claims/mechanism.py                    # heads from installed packages
    python benchmarks/claims/mechanism.py --bids BIDS        # the T1 scans of a folder

The reconstructions are those of `claims.reconstructions`, semi-synthetic: a random-phase texture in real heads. For each mode:

1. the loss of each reconstruction over that of the smooth one, with the standard deviation over heads, masks and textures in
   parentheses, where the head's own detail is known and where it is smoothed away, for two amounts of texture;
2. at the last of these doses, its gradient over the voxel error's in norm, ‖∂L_spec/∂ŷ‖ / ‖∂L_mae/∂ŷ‖ on hidden voxels;
3. the cosine of the two gradients. Below 0 the mode pulls against the voxel error.

Deterministic: seeds 0 … draws − 1. Prints Markdown for `benchmarks/results/claims-mechanism.md`, draws claims-mechanism.png.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity
from tqdm import tqdm

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from pretraining.report import mean_and_std, table  # noqa: E402

from claims.heads import load_heads  # noqa: E402
from claims.reconstructions import NAMES, Case, Dose, reconstruct  # noqa: E402
from mri_fm.losses.spectral import MODES, spectral_loss  # noqa: E402

CUTOFF = 0.3
DOSES = (Dose(0.0, 0.2), Dose(0.0, 0.5), Dose(1.0, 0.2), Dose(1.0, 0.5))
PULLS = ("smooth", "half right", "right", "wrong", "half locked")
Scores = dict[str, dict[str, list[float]]]
"""By mode ("voxel error" among them) and reconstruction, one value for each head and draw."""


def losses_of(mosaic: Tensor, case: Case) -> dict[str, Tensor]:
    """The voxel error of hidden voxels (p = 2) and every spectral mode, in float64; the radial one over hidden voxels."""
    count = case.hidden.sum()
    losses = {"voxel error": ((mosaic - case.truth).square() * case.hidden).sum() / (2 * count)}
    for mode in MODES:
        hidden = case.hidden if mode == "radial_log_power" else None
        losses[mode] = spectral_loss(mosaic, case.truth, cutoff=CUTOFF, mode=mode, hidden=hidden)
    return losses


def score(case: Case) -> dict[str, dict[str, float]]:
    """The loss of every mode and reconstruction."""
    values = {name: losses_of(mosaic, case) for name, mosaic in case.mosaics.items()}
    return {mode: {name: float(losses[mode]) for name, losses in values.items()} for mode in values["perfect"]}


def pulls(mosaic: Tensor, case: Case) -> dict[str, tuple[float, float]]:
    """For each mode, the norm of its gradient on hidden voxels over the voxel error's, and the cosine of the two."""
    variable = mosaic.clone().requires_grad_()
    gradients = {mode: torch.autograd.grad(loss, variable)[0][case.hidden] for mode, loss in losses_of(variable, case).items()}
    voxels = gradients.pop("voxel error")
    return {
        mode: (float(g.norm() / voxels.norm()), float(cosine_similarity(g, voxels, dim=0))) for mode, g in gradients.items()
    }


def score_all(cases: list[Case]) -> Scores:
    """The losses of all cases."""
    scores: Scores = {}
    for case in cases:
        for mode, values in score(case).items():
            for name, value in values.items():
                scores.setdefault(mode, {}).setdefault(name, []).append(value)
    return scores


def pull_all(cases: list[Case]) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """The pulls of all cases, by mode and reconstruction."""
    pulled: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for case in tqdm(cases, desc="gradients", unit="case"):
        for name in PULLS:
            for mode, pull in pulls(case.mosaics[name], case).items():
                pulled.setdefault(mode, {}).setdefault(name, []).append(pull)
    return pulled


def over_smooth(values: dict[str, list[float]], name: str) -> np.ndarray:
    """A reconstruction's loss over the smooth one's, case by case."""
    return np.array(values[name]) / np.array(values["smooth"])


def draw(by_dose: dict[Dose, Scores], cases: dict[Dose, Case], file: Path) -> None:
    """For each dose the middle slice of each reconstruction, and beside them each mode's losses over the smooth guess's."""
    figure, grid = plt.subplots(len(by_dose), len(NAMES) + 1, figsize=(2 * len(NAMES) + 4, 2.3 * len(by_dose)))
    for line, (dose, scores) in zip(grid, by_dose.items(), strict=True):
        middle = cases[dose].truth.shape[2] // 2
        for axes, name in zip(line[:-1], NAMES, strict=True):
            axes.imshow(cases[dose].mosaics[name][0, 0, middle], cmap="gray", origin="lower", vmin=-2, vmax=3)
            axes.set(title=name, xticks=[], yticks=[])
        line[0].set_ylabel(str(dose).replace(", ", "\n"))
        for number, (mode, values) in enumerate(scores.items()):
            means = [over_smooth(values, name).mean() for name in NAMES[1:-1]]
            line[-1].plot(range(len(means)), means, "o-", color=f"C{number}", ms=3, lw=1, label=mode)
        line[-1].set(ylim=(1e-3, 20), yscale="log", xticks=range(len(NAMES) - 2), ylabel="loss / smooth")
        line[-1].set_xticklabels(NAMES[1:-1], rotation=30, fontsize=6)
    figure.legend(*grid[0, -1].get_legend_handles_labels(), loc="lower center", ncols=6)
    figure.tight_layout(rect=(0, 0.04, 1, 1))
    figure.savefig(file, dpi=70)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bids", type=Path, help="a folder with *_T1w.nii.gz; without it heads from installed packages")
    parser.add_argument("--heads", type=int, default=8, help="at most so many")
    parser.add_argument("--draws", type=int, default=3, help="masks and textures of each head")
    parser.add_argument("--side", type=int, default=64, help="voxels along each axis, a multiple of 8")
    parser.add_argument("--spacing", type=float, default=2.0, help="mm")
    parser.add_argument("--figures", type=Path, default=ROOT / "benchmarks" / "results")
    return parser.parse_args()


def report(by_dose: dict[Dose, Scores], pulled: dict[str, dict[str, list[tuple[float, float]]]]) -> None:
    """Print the tables."""
    for dose, scores in by_dose.items():
        rows = [
            [mode, mean_and_std(values["smooth"]), *(mean_and_std(over_smooth(values, name)) for name in NAMES[2:])]
            for mode, values in scores.items()
        ]
        print(f"{dose}:\n")
        print(table(["loss", "smooth", *(f"{name} / smooth" for name in NAMES[2:])], rows))
    for number, what in enumerate(("gradient, over the voxel error's", "cosine with the voxel error's gradient")):
        rows = [[mode, *(mean_and_std([p[number] for p in by[name]]) for name in PULLS)] for mode, by in pulled.items()]
        print(table([what, *PULLS], rows))


def main() -> int:
    """The command line."""
    options = parse()
    heads = load_heads(options.bids, side=options.side, spacing=options.spacing, most=options.heads)
    draws = [(head, seed) for head in heads for seed in range(options.draws)]
    by_dose, shown = {}, {}
    for dose in tqdm(DOSES, desc="losses", unit="dose"):
        cases = [reconstruct(head, dose, seed) for head, seed in draws]
        by_dose[dose], shown[dose] = score_all(cases), cases[0]
    print(f"## {datetime.date.today()}, {platform.machine()} CPU, torch {torch.__version__}\n")
    print(f"{len(heads)} heads ({', '.join(head.name for head in heads)}) × {options.draws} draws, {options.side}³ voxels of")
    print(f"{options.spacing:g} mm; high-pass from {CUTOFF} of the largest frequency. `perfect` scores 0.\n")
    report(by_dose, pull_all(cases))
    options.figures.mkdir(parents=True, exist_ok=True)
    draw(by_dose, shown, options.figures / "claims-mechanism.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
