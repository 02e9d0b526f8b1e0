"""Small pretraining runs on a BIDS folder, by the real commands; what is finished is not done again."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mri_fm.engine.publication import step_name
from mri_fm.models.patches import Size3
from mri_fm.observe.recorder import read_metrics

ROOT = Path(__file__).parents[2]
Measures = dict[str, list[float]]
"""By name, one value for each volume, batch or what the name says."""
SMALL = (
    *"val.batches=3 observe.samples=16 wandb.mode=disabled".split(),
    *"model.depth=4 model.predictor.depth=1 model.decoder.depth=1".split(),
)
"""ViT-T's width, a third of its depth and heads of one layer, so that one CPU core does a step in under a second."""


@dataclass(frozen=True)
class Run:
    """One run of train.py: an objective with the words of an arm."""

    objective: str
    arm: str
    words: tuple[str, ...]
    seed: int

    @property
    def name(self) -> str:
        return f"{self.objective}-{self.arm}-seed{self.seed}"


@dataclass(frozen=True)
class Bench:
    """What all runs have in common, and where they lie."""

    out: Path
    steps: int
    batch: int
    size: Size3  # voxels of the input
    checkpoints: int  # number of checkpoints, evenly spread, the last one at the end
    words: tuple[str, ...] = SMALL

    @property
    def corpus(self) -> Path:
        return self.out / "corpus"

    @property
    def checkpoint_steps(self) -> list[int]:
        every = self.steps // self.checkpoints
        return [every * number for number in range(1, self.checkpoints + 1)]

    def folder(self, run: Run) -> Path:
        return self.out / f"{self.steps}-steps" / run.name

    def finished(self, run: Run) -> bool:
        return (self.folder(run) / "checkpoints" / step_name(self.steps)).is_dir()

    def command(self, run: Run) -> list[str]:
        every = self.steps // self.checkpoints
        clocks = f"train.steps={self.steps} checkpoint.every={every} checkpoint.keep_last={self.checkpoints} log_every=5"
        watched = f"val.every={max(1, every // 2)} observe.every={every}"
        size = ",".join(map(str, self.size))
        words = [f"data.corpus={self.corpus}", f"run.dir={self.folder(run)}", f"data.size=[{size}]"]
        words += [f"train.global_batch={self.batch}", f"seed={run.seed}", *clocks.split(), *watched.split()]
        words += [*self.words, *run.words]
        return [sys.executable, str(ROOT / "train.py"), "--objective", run.objective, *words]

    def records(self, run: Run) -> list[dict[str, Any]]:
        return list(read_metrics(self.folder(run)))


def build_corpus(bids: Path, bench: Bench) -> None:
    """The corpus of the folder, one fifth of its people for validation; up to date, the command does nothing."""
    words = ["--raw", str(bids), "--out", str(bench.corpus), "--val-fraction", "0.2", "--workers", "1"]
    subprocess.run([sys.executable, "-m", "preprocessing.build_shards", *words], check=True, cwd=ROOT)


def train_all(
    bench: Bench, runs: Sequence[Run], minutes: float, measure: Callable[[Run], object] = lambda run: None
) -> list[Run]:
    """Train what is not finished, in this order, until the time is up, and `measure` each; returns those that are finished."""
    deadline = time.monotonic() + 60 * minutes
    for run in tqdm([run for run in runs if not bench.finished(run)], desc="train", unit="run"):
        if time.monotonic() > deadline:
            break
        _train(bench, run)
        measure(run)
    return [run for run in runs if bench.finished(run)]


def _train(bench: Bench, run: Run) -> None:
    folder = bench.folder(run)
    folder.mkdir(parents=True, exist_ok=True)
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    with (folder / "log.txt").open("a") as log:
        subprocess.run(bench.command(run), check=True, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, env=environment)


def measured_once(file: Path, steps: Sequence[int], measure: Callable[[int], Measures]) -> dict[int, Measures]:
    """`measure` at every step; what the file holds already is not computed again."""
    known = {int(step): values for step, values in (json.loads(file.read_text()) if file.is_file() else {}).items()}
    for step in steps:
        if step not in known:
            known[step] = measure(step)
            file.write_text(json.dumps(known))
    return {step: known[step] for step in steps}


def spectral_run(weight: float, seed: int) -> Run:
    """`mae_spectral` at a weight; at 0 it is `mae`, with the same masks and initial weights."""
    if weight == 0:
        return Run("mae", "default", (), seed)
    return Run("mae_spectral", f"weight{weight:g}", (f"objective.spectral_weight={weight}",), seed)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bids", type=Path, help="folder of scans with a participants.tsv; without it nothing is done")
    parser.add_argument("--out", type=Path, default=Path("runs/pretraining"), help="corpus and runs; what is there is reused")
    parser.add_argument("--steps", type=int, default=160)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--side", type=int, default=64, help="voxels along each axis")
    parser.add_argument("--checkpoints", type=int, default=4)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--minutes", type=float, default=1e9, help="start no further run after this long")
    parser.add_argument("--figures", type=Path, default=ROOT / "benchmarks" / "results", help="folder for the figure")
    parser.add_argument("--labels", nargs="+", default=["gender", "group"], help="columns of participants.tsv with two classes")


def bench_of(options: argparse.Namespace) -> Bench:
    if options.steps % options.checkpoints:
        raise SystemExit(f"--steps {options.steps} does not divide by --checkpoints {options.checkpoints}")
    return Bench(options.out.resolve(), options.steps, options.batch, (options.side,) * 3, options.checkpoints)
