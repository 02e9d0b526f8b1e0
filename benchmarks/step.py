"""What a training step costs per volume, forward and backward, with and without a token budget.

    python benchmarks/step.py                                       # ViT-S/8 and B/8 at 64×160×160
    python benchmarks/step.py --corpus CORPUS --models vit_small --repeats 3

Without --corpus it takes the demo's, or scans rendered from the heads in installed packages where `make demo` has not run.

The `paper` column is the paper's step: all tokens, and for `jepa_vcr` one mask per micro-step. The budgets keep a share of the
tokens, foreground first (`mri_fm.token_budget`); what they drop of the foreground is counted on the corpus. All variants of one
model take turns in the same process; the median of each one's ratio to `paper` in the same turn is given. CPU time of the
process on the CPU, events on a GPU. Memory is the growth of the peak over one call in a process of its own.

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
BUDGETS = (1.0, 0.6, 0.45)
TARGETS = {("jepa_vcr", 0.45): 0.40, ("jepa_vcr", 0.6): 0.60, ("mae", 0.45): 0.50, ("mae", 0.6): 0.65}
SCHEDULE = {"spectral_weight": 0.01}


def settings(objective: str, model: str, budget: float, corpus: Path) -> Config:
    """The paper's input size; below a full budget masks are drawn per sample."""
    words = [f"model={model}", "data=paper", f"data.corpus={corpus}", "run.dir=unused", f"objective.token_budget={budget}"]
    return load_config(objective, [*words, *(["objective.shared_mask=false"] if budget < 1 else [])])


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


def peak_mib(objective: str, model: str, budget: float, corpus: Path) -> float:
    """Growth of the peak memory over one step, in a fresh process, MiB."""
    command = [sys.executable, __file__, "--corpus", str(corpus), "--peak", objective, model, str(budget)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def print_peak(objective: str, model: str, budget: float, corpus: Path) -> None:
    """What `peak_mib` runs."""
    config = settings(objective, model, budget, corpus)
    module, batch = build_objective(config), first_batch(config)
    if torch.cuda.is_available():
        module = module.cuda()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.max_memory_allocated() / 2**20
        step(module, batch)
        print(torch.cuda.max_memory_allocated() / 2**20 - before)
        return
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew at what is resident now
    before = resident_peak_mib()
    step(module, batch)
    print(resident_peak_mib() - before)


def resident_peak_mib() -> float:
    """Largest resident set since the peak was last reset, MiB (Linux)."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def compare(objective: str, model: str, corpus: Path, repeats: int) -> list[str]:
    """One row of the table per budget."""
    configs = {budget: settings(objective, model, budget, corpus) for budget in BUDGETS}
    batch = first_batch(configs[1.0])
    modules = {budget: build_objective(config).to(batch.x_BCZYX.device) for budget, config in configs.items()}
    costs: dict[float, list[float]] = {budget: [] for budget in BUDGETS}
    for turn in range(repeats + 1):
        for budget, module in modules.items():
            seconds = cost(module, batch)
            if turn > 0:  # the first turn warms up
                costs[budget].append(seconds)
    data = Corpus.open(corpus, verify="size")
    foreground_S = foreground_tokens(data, data.select("train"), configs[1.0].data, as_size3(configs[1.0].model.patch))
    rows = []
    for budget, module in modules.items():
        ratio = statistics.median(a / b for a, b in zip(costs[budget], costs[1.0], strict=True))
        target = f"≤ {TARGETS[objective, budget]:.2f}" if (objective, budget) in TARGETS else ""
        flops = module.flops_per_sample() / modules[1.0].flops_per_sample()
        cells = [
            model,
            objective,
            "paper" if budget == 1 else f"{budget:.0%}",
            f"{statistics.median(costs[budget]):.2f}",
            f"{ratio:.2f}",
            target,
            f"{flops:.2f}",
            f"{peak_mib(objective, model, budget, corpus):.0f}",
            f"{lost_share(foreground_S, module.count_tokens()[0]):.2%}",
        ]
        rows.append("| " + " | ".join(cells) + " |")
    return rows


def default_corpus() -> Path:
    """The demo's corpus where it is, else one of rendered scans."""
    return DEMO_CORPUS if DEMO_CORPUS.is_dir() else prepare(BENCH_FOLDER, None, VOLUMES)[0]


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, help="a corpus; by default the demo's, or rendered scans")
    parser.add_argument("--models", nargs="+", default=["vit_small", "vit_base"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peak", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        objective, model, budget = options.peak
        print_peak(objective, model, float(budget), options.corpus)
        return 0
    corpus = options.corpus or default_corpus()
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()} CPU"
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    print(f"## {datetime.date.today()}, {where}, {torch.get_num_threads()} of {os.cpu_count()} threads\n")
    print(
        f"64 × 160 × 160 voxels, patch 8, batch 1, torch {torch.__version__}, commit {commit}, median of {options.repeats}.\n"
    )
    print("| model | objective | tokens | s per volume | of paper | target | FLOPs of paper | peak MiB | foreground dropped |")
    print("|---|---|---|---|---|---|---|---|---|")
    for model in options.models:
        for objective in ("mae", "jepa_vcr"):
            print("\n".join(compare(objective, model, corpus, options.repeats)), flush=True)
    return 0


if __name__ == "__main__":
    run_main(main)
