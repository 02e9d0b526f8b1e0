"""Both claims of the paper on trained networks: `claims.design` says what is run, what is measured and how it is read.

    python -m benchmarks.claims.training --out DIR --bids BIDS    # an hour on a CPU core; what is finished is not done again
    python -m benchmarks.claims.training --out DIR                # renderings of heads from installed packages
    python -m benchmarks.claims.training --out DIR --short        # under a minute: every part once, for continuous integration

Runs are resumed where they stopped, measures are kept in their folders (claim1.json, claim2.json: remove one to measure
again). Prints Markdown for `benchmarks/results/claims-training.md`, draws claims-training.png.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parents[2]
RESUMES = 75
sys.path.insert(0, str(ROOT / "benchmarks"))

import torch  # noqa: E402
from pretraining.report import commit, finished_arms, setting  # noqa: E402
from pretraining.runs import Bench, Measures, Run, train_all  # noqa: E402
from tqdm import tqdm  # noqa: E402

from claims.corpus import build_corpus  # noqa: E402
from claims.design import FULL, SHORT, Arms, Scale, jepa_arms, mae_arms, published_momentum  # noqa: E402
from claims.measures import jepa_curve, mae_curve  # noqa: E402
from claims.tables import (  # noqa: E402
    Curves,
    at,
    gradient_table,
    reconstruction_table,
    spread_table,
    vcr_sentences,
    weight_sentence,
)
from claims.training_figure import draw  # noqa: E402


def arms_of(scale: Scale, claim: int) -> dict[str, Arms]:
    """The arms that a claim is judged by, and the exploratory ones."""
    if claim == 1:
        return {"judged": mae_arms(scale), "exploratory": {}}
    return {"judged": jepa_arms(scale), "exploratory": published_momentum(scale)}


def order(arms: Mapping[str, Arms]) -> list[Run]:
    """Seed by seed, so that what is finished early is whole; the exploratory arms last."""
    by_seed = [run for runs in zip(*arms["judged"].values(), strict=True) for run in runs]
    return by_seed + [run for runs in arms["exploratory"].values() for run in runs]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="corpus, runs and measures; what is there is reused")
    parser.add_argument("--bids", type=Path, help="a folder with *_T1w.nii.gz; without it heads from installed packages")
    parser.add_argument("--short", action="store_true", help="two steps of one seed of four arms")
    parser.add_argument("--claims", type=int, nargs="+", choices=(1, 2), default=[1, 2], help="one of them, or both")
    parser.add_argument("--minutes", type=float, default=1e9, help="start no further run after this long")
    parser.add_argument("--figures", type=Path, default=ROOT / "benchmarks" / "results", help="folder for the figure")
    return parser.parse_args()


def curve(bench: Bench, scale: Scale, run: Run) -> dict[int, Measures]:
    """What is measured of a run, once."""
    return mae_curve(bench, run) if run.objective.startswith("mae") else jepa_curve(bench, run, scale.views)


def curves_of(bench: Bench, scale: Scale, arms: Arms) -> Curves:
    """The measures of arms, of the seeds under which all of them are finished."""
    return {
        arm: [curve(bench, scale, run) for run in tqdm(runs, desc=f"measure {arm}", unit="run")]
        for arm, runs in finished_arms(bench, arms).items()
    }


def run_claim(bench: Bench, scale: Scale, claim: int, minutes: float) -> Curves:
    """Train and measure; print the tables and what the rules say, if there is a seed under which all arms are finished."""
    arms = arms_of(scale, claim)
    train_all(bench, order(arms), minutes, measure=partial(curve, bench, scale))
    curves = curves_of(bench, scale, arms["judged"])
    if not curves:
        print(f"claim {claim}: no seed under which all arms are finished yet: start again, what is finished is kept")
        return {}
    print(f"{setting(bench, finished_arms(bench, arms['judged']))}; torch {torch.__version__}, commit {commit()}.\n")
    if arms["exploratory"]:
        curves = {**curves, **curves_of(bench, scale, arms["exploratory"])}
    if claim == 2:  # one initial network for each seed, measured once
        initial = [run[0] for run in curves["jepa"]]
        curves = {arm: [{0: initial[k], **run} for k, run in enumerate(runs)] for arm, runs in curves.items()}
    print(_claim_1(bench, curves) if claim == 1 else _claim_2(bench, curves))
    return curves


def _claim_1(bench: Bench, curves: Curves) -> str:
    last = at(curves, bench.steps)
    parts = [gradient_table(curves, [0, *bench.checkpoint_steps]), reconstruction_table(last), weight_sentence(last)]
    return "\n".join(parts)


def _claim_2(bench: Bench, curves: Curves) -> str:
    last = {"random": [run[0] for run in curves["jepa"]], **at(curves, bench.steps)}
    return "\n".join([spread_table(last), vcr_sentences(last)])


def main() -> int:
    """The command line: 0 where all runs are finished, 75 where the same command goes on."""
    options = parse()
    scale = SHORT if options.short else FULL
    benches = {claim: scale.bench(options.out, claim) for claim in sorted(options.claims)}
    build_corpus(options.bids, options.out.resolve(), heads=scale.heads)
    deadline = time.monotonic() + 60 * options.minutes
    curves = {c: run_claim(bench, scale, c, (deadline - time.monotonic()) / 60) for c, bench in benches.items()}
    draw(curves.get(1, {}), curves.get(2, {}), options.figures / "claims-training.png")
    complete = all(bench.finished(run) for claim, bench in benches.items() for run in order(arms_of(scale, claim)))
    return 0 if complete else RESUMES


if __name__ == "__main__":
    sys.exit(main())
