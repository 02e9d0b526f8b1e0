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
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from pretraining.runs import Bench, Run, train_all  # noqa: E402

from claims.corpus import build_corpus  # noqa: E402
from claims.design import FULL, SHORT, Scale, jepa_arms, mae_arms, published_momentum  # noqa: E402


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


def main() -> int:
    """The command line."""
    options = parse()
    scale = SHORT if options.short else FULL
    bench: Bench = scale.bench(options.out)
    build_corpus(options.bids, bench.out, heads=scale.heads)
    train_all(bench, order(scale, options.claims), options.minutes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
