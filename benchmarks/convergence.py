"""Does a faster recipe learn as well? Loss curves and frozen-probe curves of pretraining runs, on one corpus, at equal steps.

    python benchmarks/convergence.py --bids BIDS          # hours on a CPU core; what is finished is not done again
    python benchmarks/convergence.py --bids BIDS --objectives mae --seeds 0 --steps 40 --checkpoints 2

The corpus is built and the runs are made by the real commands. Arms: `recipe=paper`; the default; the default with token
budgets of 60 % and 45 % (`jepa_vcr` then takes statistics over all tokens, since their slots are not aligned). Every
checkpoint, and the network before its first step, is probed as `python -m mri_fm.evaluate` does it: linear probes on
mean-pooled tokens, folds disjoint by subject, all choices made inside the training part of a fold; here over several divisions
into folds.

Said before the runs: an arm is *no worse* than `paper` within the interval if the 95 % bootstrap interval, over subjects and
paired, of its AUROC minus `paper`'s (mean over seeds and divisions, at the last checkpoint) reaches 0 or more. How large a loss
could hide in it is its lower end, which the table gives.

Without --bids it says so and ends. Writes convergence.md and convergence.png.
"""

from __future__ import annotations

import argparse
import sys

from pretraining.runs import Run, add_options, bench_of, build_corpus, spectral_run, train_all

SHARES = {"60 %": 0.6, "45 %": 0.45}


def arms(objective: str, seed: int) -> dict[str, Run]:
    """Runs by arm; the first is what the others are compared with. The spectral weight is the paper's in all of them."""
    weight = ("objective.spectral_weight=0.01",) if objective == "mae_spectral" else ()
    pooled = ("objective.shared_mask=false",) if objective == "jepa_vcr" else ()
    default = spectral_run(0.01, seed) if objective == "mae_spectral" else Run(objective, "default", (), seed)
    budgets = {
        name: Run(objective, f"budget{share:g}", (f"objective.token_budget={share}", *pooled, *weight), seed)
        for name, share in SHARES.items()
    }
    return {"paper": Run(objective, "paper", ("recipe=paper",), seed), "default": default, **budgets}


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
    bench = bench_of(options)
    build_corpus(options.bids, bench)
    runs = [run for seed in options.seeds for name in options.objectives for run in arms(name, seed).values()]
    train_all(bench, runs, options.minutes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
