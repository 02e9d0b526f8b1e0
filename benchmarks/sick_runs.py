"""Healthy and sick runs side by side, for docs/reading-the-curves.md.

    python benchmarks/sick_runs.py --bids BIDS                        # trains what is missing, then draws
    python benchmarks/sick_runs.py --out runs/sick                    # draws what is there

Each run is a real one of train.py, small enough for one CPU core: its metrics come from its metrics.jsonl. The scans that were
used for the committed figures are ds002748 (OpenNeuro, T1), resampled to 2 mm.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from tqdm import tqdm

from mri_fm.observe.recorder import METRICS_FILE, read_metrics

ROOT = Path(__file__).parents[1]
SMALL = """
model.width=96 model.depth=4 model.heads=3 data.size=[32,40,40] train.global_batch=8 seed=1 wandb.mode=disabled
model.predictor.width=96 model.predictor.depth=1 model.predictor.heads=3
model.decoder.width=96 model.decoder.depth=1 model.decoder.heads=3 optim.lr_start=0 optim.lr=1e-3 optim.lr_end=1e-5
observe.samples=24 log_every=4 val.batches=1 checkpoint.every=100000 data.verify=size
""".split()


@dataclass(frozen=True)
class Arm:
    """One run: its name in the figure, colour, objective, and the words that make it sick."""

    title: str
    colour: str
    objective: str
    words: tuple[str, ...] = ()

    @property
    def folder(self) -> str:
        return f"{self.objective}-" + self.title.replace(" ", "-").replace("=", "")


HEALTHY, SICK = "#2463b0", ("#c2410c", "#7a5aa6", "#0f766e")
MAE = (
    Arm("healthy", HEALTHY, "mae"),
    Arm("learning rate 100 times too high", SICK[0], "mae", ("optim.lr=0.1", "optim.warmup=0")),
    Arm("learning rate 100 times too low", SICK[1], "mae", ("optim.lr=1e-5", "optim.lr_end=1e-7")),
)
JEPA = (
    Arm("healthy", HEALTHY, "jepa_vcr"),
    Arm("VCR off", SICK[0], "jepa_vcr", ("objective.vcr_weight=0",)),
    Arm("VCR off, teacher momentum 0.5", SICK[1], "jepa_vcr",
        ("objective.vcr_weight=0", "objective.ema_start=0.5", "objective.ema_end=0.5")),
    Arm("learning rate 100 times too high", SICK[2], "jepa_vcr", ("optim.lr=0.1", "optim.warmup=0")),
)  # fmt: skip
FIGURES = {
    "curves-mae.png": (MAE, {
        "loss_reconstruction": "log", "val_loss": "log", "grad_norm": "log",
        "update_ratio/block_00": "log", "attention_entropy/block_03": "linear", "spectral_error/band_02": "linear",
    }),
    "curves-jepa.png": (JEPA, {
        "loss_prediction": "log", "feature_std": "log", "effective_rank": "linear",
        "lidar": "linear", "teacher_cosine": "linear", "ema_distance": "log",
    }),
}  # fmt: skip


def build_corpus(bids: Path, out: Path) -> None:
    """A fifth of the people is for validation; up to date, the command does nothing."""
    words = ["--raw", str(bids), "--out", str(out / "corpus"), "--val-fraction", "0.2", "--workers", "1"]
    subprocess.run([sys.executable, "-m", "preprocessing.build_shards", *words], check=True, cwd=ROOT)


def train(arm: Arm, out: Path, steps: int) -> None:
    """Run to the end or until the run itself stops: one that diverges may end with a loss that is not finite."""
    clocks = [f"train.steps={steps}", f"observe.every={steps // 12}", f"val.every={steps // 12}"]
    words = [f"data.corpus={out / 'corpus'}", f"run.dir={out / arm.folder}", *SMALL, *clocks, *arm.words]
    command = [sys.executable, str(ROOT / "train.py"), "--objective", arm.objective, *words]
    (out / arm.folder).mkdir(parents=True, exist_ok=True)
    with (out / arm.folder / "log.txt").open("a") as log:
        code = subprocess.run(
            command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, env={"OMP_NUM_THREADS": "1", **os.environ}, check=False
        ).returncode
    if code:
        tqdm.write(f"{arm.folder} ended with exit code {code}: see {out / arm.folder / 'log.txt'}")


def draw(arms: tuple[Arm, ...], metrics: dict[str, str], out: Path) -> Figure:
    """One panel per metric, one line per run."""
    figure = Figure(figsize=(11, 5.6), layout="constrained")
    records = {arm: read_metrics(out / arm.folder) for arm in arms}
    for axis, (name, scale) in zip(figure.subplots(2, 3).flat, metrics.items(), strict=True):
        for arm, rows in records.items():
            points = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
            points = [point for point in points if scale == "linear" or point[1] > 0]
            axis.plot(*zip(*points, strict=True), color=arm.colour, label=arm.title, linewidth=1.6)
        axis.set(title=name, yscale=scale)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in figure.axes[3:]:
        axis.set_xlabel("step")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(arms), frameon=False)
    return figure


def table(out: Path) -> list[str]:
    """The last values of every run, as Markdown."""
    names = ("loss", "feature_std", "rankme", "effective_rank", "lidar", "teacher_cosine", "update_ratio/block_00")
    lines = ["| run | step | " + " | ".join(names) + " |", "|---" * (len(names) + 2) + "|"]
    for arm in MAE + JEPA:
        rows = [row for row in read_metrics(out / arm.folder) if "rankme" in row]
        last: dict[str, Any] = rows[-1]
        cells = ["–" if last.get(name) is None else f"{last[name]:.3g}" for name in names]
        lines.append(f"| {arm.objective}, {arm.title} | {last['step']} | " + " | ".join(cells) + " |")
    return lines


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bids", type=Path, help="folder of scans; without it nothing is trained")
    parser.add_argument("--out", type=Path, default=Path("runs/sick"), help="corpus and runs; a run that is there is kept")
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--images", type=Path, default=ROOT / "docs" / "images")
    options = parser.parse_args()
    out = options.out.resolve()
    if options.bids:
        build_corpus(options.bids, out)
        for arm in tqdm([arm for arm in MAE + JEPA if not (out / arm.folder / METRICS_FILE).is_file()], unit="run"):
            train(arm, out, options.steps)
    if not all((out / arm.folder / METRICS_FILE).is_file() for arm in MAE + JEPA):
        print(f"{out} has no runs: give --bids FOLDER")
        return 0
    for name, (arms, metrics) in FIGURES.items():
        draw(arms, metrics, out).savefig(options.images / name, dpi=100)
    print("\n".join(table(out)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
