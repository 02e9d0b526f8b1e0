"""`python -m preprocessing.build_shards --raw RAW --out CORPUS`: raw scans → corpus."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from mri_fm.errors import UserError, run_main


def main() -> None:
    """Build the corpus, or say that there is nothing to do.

    Raises:
        UserError: see `preprocessing.build.build`.
    """
    arguments = _parser().parse_args()
    if arguments.workers < 1:
        raise UserError(f"--workers {arguments.workers} must be at least 1")
    from preprocessing.build import Spec, build, summary  # after parsing: this import takes seconds, in every worker too
    from preprocessing.report import write_report

    spec = Spec(arguments.max_spacing, arguments.val_fraction, arguments.test_fraction, int(arguments.shard_bytes))
    content, changed = build(
        arguments.raw, arguments.out, spec, workers=arguments.workers, scheduler=arguments.scheduler, report=write_report
    )
    print(f"{arguments.out}: {'built' if changed else 'up to date, nothing to do'}")
    print(summary(content))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m preprocessing.build_shards", description="Turn raw MRI into a corpus.")
    parser.add_argument("--raw", type=Path, required=True, help="folder of scans, any layout; only read")
    parser.add_argument("--out", type=Path, required=True, help="the corpus folder")
    parser.add_argument("--max-spacing", type=float, default=6.5, help="refuse volumes whose voxels lie further apart, mm")
    parser.add_argument("--val-fraction", type=float, default=0.1, help="share of subjects for validation")
    parser.add_argument("--test-fraction", type=float, default=0.0, help="share of subjects for tests")
    parser.add_argument("--shard-bytes", type=float, default=1e9, help="payload per shard")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="processes on this machine")
    parser.add_argument("--scheduler", help="address of a running Dask scheduler, e.g. tcp://host:8786, instead of --workers")
    return parser


if __name__ == "__main__":
    run_main(main)
