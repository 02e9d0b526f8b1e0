"""`python -m mri_fm.evaluate`: does a frozen encoder see a label, and with what certainty?"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from mri_fm.errors import UserError, run_main
from mri_fm.evaluate.evaluation import REPORT_FILE, RESULT_FILE, Request, evaluate
from mri_fm.evaluate.report import text_table


def parse(words: Sequence[str] | None = None) -> Request:
    """Read the command line.

    Raises:
        UserError: fewer than two folds or a batch below one.
    """
    parser = argparse.ArgumentParser(prog="python -m mri_fm.evaluate", description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="run folder of train.py")
    parser.add_argument("--corpus", required=True, help="corpus of preprocessing.build_shards: folder or s3://bucket/prefix")
    parser.add_argument("--label", required=True, help="manifest column with the classes; rows without a value are left out")
    parser.add_argument("--out", type=Path, required=True, help=f"folder for {RESULT_FILE} and {REPORT_FILE}")
    parser.add_argument("--unit", default="subject", help="manifest column kept on one side of a split (default: %(default)s)")
    parser.add_argument("--folds", type=int, default=5, help="unit-disjoint folds (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of folds, probes and resamples (default: %(default)s)")
    parser.add_argument("--encoder", choices=("teacher", "student"), help="default: the one the objective keeps")
    parser.add_argument("--batch-size", type=int, default=4, help="volumes embedded at once (default: %(default)s)")
    parser.add_argument("--contrasts", nargs="+", default=(), metavar="NAME", help="evaluate these alone (default: all)")
    for name, choices in {"plane": ("spacing", "shape"), "crop": ("centre", "whole")}.items():
        parser.add_argument(f"--{name}", choices=choices, help=f"data.evaluation.{name} (default: the run's)")
    parser.add_argument(
        "--reader",
        choices=("shards", "archive"),
        default="shards",
        help="archive: volumes.zarr, where shards are absent",
    )
    parser.add_argument("--step", type=int, help="checkpoint to evaluate (default: the newest)")
    fields = vars(parser.parse_args(words))
    request = Request(**fields | {"contrasts": tuple(fields["contrasts"])})
    if request.folds < 2:
        raise UserError(f"--folds {request.folds}: at least 2 folds are needed to learn on one part and test on another")
    if request.batch_size < 1:
        raise UserError(f"--batch-size {request.batch_size}: at least one volume is embedded at once")
    return request


def main(words: Sequence[str] | None = None) -> None:
    """Evaluate and print the table."""
    request = parse(words)
    result = evaluate(request, say=lambda line: print(line, flush=True))
    print(text_table(result))
    print(f"{request.out / RESULT_FILE}\n{request.out / REPORT_FILE}")


if __name__ == "__main__":
    run_main(main)
