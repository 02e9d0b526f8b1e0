"""What a training step costs per volume, forward and backward, under the paper's recipe and with token budgets.

    python benchmarks/step.py                                       # ViT-S/8 and B/8 at 64×160×160
    python benchmarks/step.py --corpus CORPUS --models vit_small --repeats 3
    python benchmarks/step.py --size 160 160 160 --repeats 0        # half an hour on a CPU core

Without --corpus it takes the demo's, or scans rendered from the heads in installed packages where `make demo` has not run.

`paper` is `recipe=paper`: all tokens, and for `jepa_vcr` one mask per micro-step. `default` is no recipe; the budgets keep a
share of the tokens beside it, foreground first (`mri_fm.token_budget`); what they drop of the foreground is counted on the
corpus. All arms of one model take turns in the same process; the median of each one's ratio to `paper` in the same turn is
given. CPU time of the process on the CPU, events on a GPU. Memory is the growth of the peak over one call in a process of its
own; with --repeats 0 the time is that of this one call, with nothing warmed up.

Prints Markdown for `benchmarks/results/step.md`.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from loaders.scans import BENCH_FOLDER, VOLUMES, prepare

from mri_fm.config import Config, load_config
from mri_fm.data.corpus import Corpus
from mri_fm.data.loader import Batch, evaluation_batches
from mri_fm.data.survey import foreground_tokens
from mri_fm.engine.setup import build_objective
from mri_fm.errors import run_main
from mri_fm.models.vit import as_size3
from mri_fm.objectives import Objective
from mri_fm.token_budget import lost_share

DEMO_CORPUS = Path("runs/demo/corpus")
SHARES = {"60 %": 0.6, "45 %": 0.45}
ARMS = ("paper", "default", *SHARES)
TARGETS = {("jepa_vcr", "45 %"): 0.40, ("jepa_vcr", "60 %"): 0.60, ("mae", "45 %"): 0.50, ("mae", "60 %"): 0.65}
SCHEDULE = {"spectral_weight": 0.01}


@dataclass(frozen=True)
class Case:
    """What one row of the table is about, but for the arm."""

    objective: str
    model: str
    corpus: Path
    size: tuple[int, int, int]

    def config(self, arm: str) -> Config:
        """Below a full budget masks are drawn per sample."""
        size = ",".join(map(str, self.size))
        words = [f"model={self.model}", f"data.size=[{size}]", f"data.corpus={self.corpus}", "run.dir=unused"]
        if arm == "paper":
            words += ["recipe=paper"]
        if arm in SHARES:
            words += [f"objective.token_budget={SHARES[arm]}", "objective.shared_mask=false"]
        return load_config(self.objective, words)


def first_batch(config: Config) -> Batch:
    """One real volume of the corpus."""
    corpus = Corpus.open(Path(config.data.corpus), verify="size")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return next(iter(evaluation_batches(corpus, corpus.select("train")[:1], config.data, batch_size=1, device=device)))


def step(objective: Objective, batch: Batch) -> None:
    """Forward and backward of one volume."""
    objective.zero_grad(set_to_none=True)
    objective(batch, SCHEDULE)[0].backward()


def cost(objective: Objective, batch: Batch) -> float:
    """Seconds of one step: CPU time of the process, or the GPU's own clock."""
    if not batch.x_BCZYX.is_cuda:
        start = time.process_time()
        step(objective, batch)
        return time.process_time() - start
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    step(objective, batch)
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1000


def measure_alone(case: Case, arm: str) -> tuple[float, float]:
    """Seconds of one step in a fresh process, and the growth of the peak memory over it, MiB."""
    words = ["--corpus", str(case.corpus), "--size", *map(str, case.size), "--alone", case.objective, case.model, arm]
    printed = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True, check=True).stdout.split()
    return float(printed[-2]), float(printed[-1])


def print_alone(case: Case, arm: str) -> None:
    """What `measure_alone` runs."""
    config = case.config(arm)
    module, batch = build_objective(config), first_batch(config)
    if torch.cuda.is_available():
        module = module.cuda()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.max_memory_allocated() / 2**20
        print(cost(module, batch), torch.cuda.max_memory_allocated() / 2**20 - before)
        return
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew at what is resident now
    before = resident_peak_mib()
    print(cost(module, batch), resident_peak_mib() - before)


def resident_peak_mib() -> float:
    """Largest resident set since the peak was last reset, MiB (Linux)."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def in_turns(case: Case, repeats: int) -> dict[str, list[float]]:
    """Seconds of each arm in each turn; one turn more warms up."""
    batch = first_batch(case.config("default"))
    modules = {arm: build_objective(case.config(arm)).to(batch.x_BCZYX.device) for arm in ARMS}
    turns = [{arm: cost(module, batch) for arm, module in modules.items()} for _ in range(repeats + 1)]
    return {arm: [turn[arm] for turn in turns[1:]] for arm in ARMS}


def compare(case: Case, repeats: int) -> list[str]:
    """One row of the table per arm."""
    alone = {arm: measure_alone(case, arm) for arm in ARMS}
    costs = in_turns(case, repeats) if repeats else {arm: [seconds] for arm, (seconds, _) in alone.items()}
    modules = {arm: build_objective(case.config(arm)) for arm in ARMS}
    config = case.config("default")
    data = Corpus.open(case.corpus, verify="size")
    foreground_S = foreground_tokens(data, data.select("train"), config.data, as_size3(config.model.patch))
    rows = []
    for arm, module in modules.items():
        ratio = statistics.median(a / b for a, b in zip(costs[arm], costs["paper"], strict=True))
        cells = [
            case.model,
            case.objective,
            arm,
            f"{statistics.median(costs[arm]):.2f}",
            f"{ratio:.2f}",
            f"≤ {TARGETS[case.objective, arm]:.2f}" if (case.objective, arm) in TARGETS else "",
            f"{module.flops_per_sample() / modules['paper'].flops_per_sample():.2f}",
            f"{alone[arm][1]:.0f}",
            f"{lost_share(foreground_S, module.count_tokens()[0]):.2%}",
        ]
        rows.append("| " + " | ".join(cells) + " |")
    return rows


def default_corpus() -> Path:
    """The demo's corpus where it is, else one of rendered scans."""
    return DEMO_CORPUS if DEMO_CORPUS.is_dir() else prepare(BENCH_FOLDER, None, VOLUMES)[0]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, help="a corpus; by default the demo's, or rendered scans")
    parser.add_argument("--size", type=int, nargs=3, default=[64, 160, 160], help="depth, height, width")
    parser.add_argument("--models", nargs="+", default=["vit_small", "vit_base"])
    parser.add_argument("--objectives", nargs="+", default=["mae", "jepa_vcr"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--alone", nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args()


def heading(size: tuple[int, int, int], repeats: int) -> str:
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()} CPU"
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    how = f"median of {repeats}" if repeats else "one step each"
    return (
        f"## {datetime.date.today()}, {where}, {torch.get_num_threads()} of {os.cpu_count()} threads\n\n"
        f"{' × '.join(map(str, size))} voxels, patch 8, batch 1, torch {torch.__version__}, commit {commit}, {how}.\n\n"
        "| model | objective | arm | s per volume | of paper | target | FLOPs of paper | peak MiB | foreground dropped |\n"
        "|---|---|---|---|---|---|---|---|---|"
    )


def main() -> int:
    """The command line."""
    options = parse()
    size = (options.size[0], options.size[1], options.size[2])
    if options.alone:
        objective, model, arm = options.alone
        print_alone(Case(objective, model, options.corpus, size), arm)
        return 0
    corpus = options.corpus or default_corpus()
    print(heading(size, options.repeats), flush=True)
    for model in options.models:
        for objective in options.objectives:
            print("\n".join(compare(Case(objective, model, corpus, size), options.repeats)), flush=True)
    return 0


if __name__ == "__main__":
    run_main(main)
