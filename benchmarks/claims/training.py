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
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import torch  # noqa: E402
from pretraining.report import commit, finished_arms, setting  # noqa: E402
from pretraining.runs import Bench, Measures, Run, train_all  # noqa: E402
from tqdm import tqdm  # noqa: E402

from claims.corpus import build_corpus  # noqa: E402
from claims.design import FULL, SHORT, Scale, jepa_arms, mae_arms, published_momentum  # noqa: E402
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


def order(scale: Scale, claims: Sequence[int]) -> list[Run]:
    """Seed by seed, so that what is finished early is whole; the exploratory arms last."""
    arms = (mae_arms(scale) if 1 in claims else {}) | (jepa_arms(scale) if 2 in claims else {})
    by_seed = [run for runs in zip(*arms.values(), strict=True) for run in runs]
    further = published_momentum(scale) if 2 in claims else {}
    return by_seed + [run for runs in further.values() for run in runs]


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


def curves_of(bench: Bench, scale: Scale, arms: Mapping[str, Sequence[Run]]) -> Curves:
    """The measures of arms, of the seeds under which all of them are finished."""
    return {
        arm: [curve(bench, scale, run) for run in tqdm(runs, desc=f"measure {arm}", unit="run")]
        for arm, runs in finished_arms(bench, arms).items()
    }


def curves_of_claims(bench: Bench, scale: Scale, claims: Sequence[int]) -> tuple[Curves, Curves]:
    """Of each claim that is asked for; the exploratory arms join in where they are finished."""
    mae = curves_of(bench, scale, mae_arms(scale)) if 1 in claims else {}
    jepa = curves_of(bench, scale, jepa_arms(scale)) if 2 in claims else {}
    further = curves_of(bench, scale, published_momentum(scale)) if jepa and scale.every_arm else {}
    return mae, {**jepa, **further}


def report(bench: Bench, scale: Scale, mae: Curves, jepa: Curves) -> None:
    """Print the tables and what the rules say."""
    arms = {arm: runs for arm, runs in (mae_arms(scale) | jepa_arms(scale)).items() if arm in mae | jepa}
    kept = {arm: runs[: len((mae | jepa)[arm])] for arm, runs in arms.items()}
    print(f"{setting(bench, kept)}; {scale.views} views; torch {torch.__version__}, measured under commit {commit()}.\n")
    steps = [0, *bench.checkpoint_steps]
    if mae:
        print(gradient_table(mae, steps))
        print(reconstruction_table(at(mae, bench.steps)))
        print(weight_sentence(at(mae, bench.steps)))
    if jepa:
        last = {"random": [run[0] for run in jepa["jepa"]], **at(jepa, bench.steps)}
        print(spread_table(last))
        print(vcr_sentences(last))


def main() -> int:
    """The command line."""
    options = parse()
    scale = SHORT if options.short else FULL
    bench: Bench = scale.bench(options.out)
    build_corpus(options.bids, bench.out, heads=scale.heads)
    train_all(bench, order(scale, options.claims), options.minutes, measure=partial(curve, bench, scale))
    mae, jepa = curves_of_claims(bench, scale, options.claims)
    if not mae and not jepa:
        print("no claim has all its arms finished under any seed yet: start again, what is finished is kept")
        return 0
    report(bench, scale, mae, jepa)
    draw(mae, jepa, options.figures / "claims-training.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
