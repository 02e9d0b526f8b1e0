"""`python -m preprocessing.build_shards --raw RAW --out CORPUS`: raw scans → corpus."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mri_fm.data.codecs import CODECS, RAW
from mri_fm.data.split_files import read_split
from mri_fm.errors import ResumableError, UserError, is_of_the_machine, run_main
from mri_fm.volume.brain import CHOICES, FOREGROUND
from mri_fm.volume.processing import Processing
from preprocessing.datasets.registry import ADAPTERS
from preprocessing.knowledge import AUTO
from preprocessing.runner import prepare

READING = ("dataset", "max_spacing", "reference_volume")


def main() -> None:
    """Build the corpus, or say that there is nothing to do.

    Raises:
        UserError, ResumableError: see `preprocessing.build.build`.
    """
    arguments = _parser().parse_args()
    prepare(arguments.workers, arguments.scheduler)
    from preprocessing.build import Spec, build, summary  # after parsing: this import takes seconds, in every worker too
    from preprocessing.report import draw_report

    fields = ("val_fraction", "test_fraction", "shard_bytes", "codec")
    holdout = tuple(dict.fromkeys(scan for path in arguments.holdout for scan in read_split(path)))
    spec = Spec(**reading_of(arguments), **{name: getattr(arguments, name) for name in fields}, holdout=holdout)
    options = {"workers": arguments.workers, "scheduler": arguments.scheduler, "key": arguments.key}
    with resumable(arguments.out):
        content, changed = build(arguments.raw, arguments.out, spec, **options, report=draw_report)
    print(f"{arguments.out}: {'built' if changed else 'up to date, nothing to do'}")
    print(summary(content))


@contextmanager
def resumable(where: object) -> Iterator[None]:
    """Say in one line what of the machine or the network failed at `where`, and what to do; nothing that was done is lost.

    Raises:
        ResumableError: instead of an `OSError` of the machine.
    """
    try:
        yield
    except OSError as error:
        if not is_of_the_machine(error):
            raise
        what = f"{error.filename2 or error.filename or where}: {error.strerror or error}"
        raise ResumableError(f"{what}; mend that and run the same command again, it continues") from error


def _parser() -> argparse.ArgumentParser:
    layouts = "\n".join(f"  {adapter.name:<10} {adapter.layout}" for adapter in ADAPTERS.values())
    parser = argparse.ArgumentParser(
        prog="python -m preprocessing.build_shards",
        description="Turn raw MRI into a corpus.",
        epilog=f"data sets whose layout, labels and exclusions are known (docs/datasets.md):\n{layouts}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", required=True, help="the corpus: a folder, or s3://bucket/prefix")
    add_reading(parser)
    parser.add_argument("--val-fraction", type=float, default=0.1, help="share of subjects for validation")
    parser.add_argument("--test-fraction", type=float, default=0.0, help="share of subjects for tests")
    parser.add_argument(
        "--holdout", type=Path, nargs="+", default=(), metavar="CSV",
        help="split files (subject_id,scan_uid) whose people go to the split test, so that nobody pretrains on them",
    )  # fmt: skip
    parser.add_argument(
        "--shard-bytes", type=_whole, default=1_000_000_000, help="payload per shard at most; small corpora get smaller ones"
    )
    parser.add_argument(
        "--codec", default=RAW.name, help=f"how voxels are stored in the shards: {', '.join(CODECS)} (default: %(default)s)"
    )
    add_cluster(parser)
    parser.add_argument(
        "--key", type=Path, help="file with the key of the pseudonyms (default: OUT/private/key, made if absent)"
    )
    return parser


def add_reading(parser: argparse.ArgumentParser) -> None:
    """The options that say what is read, and how."""
    parser.add_argument("--raw", required=True, help="folder of scans, any layout, or s3://bucket/prefix; only read")
    parser.add_argument(
        "--dataset", default=AUTO, choices=(AUTO, *ADAPTERS), metavar="NAME",
        help="the data set that every scan must belong to; auto (default): each is told by its path, see below",
    )  # fmt: skip
    parser.add_argument("--max-spacing", type=float, default=6.5, help="refuse volumes whose voxels lie further apart, mm")
    parser.add_argument(
        "--reference-volume", action="store_true", help="take one volume of a 4-D series, instead of refusing it"
    )
    parser.add_argument(
        "--brain", default=FOREGROUND, choices=CHOICES,
        help="what the crop keeps: all that stands out of the air (default), a mask beside the image, or a tool's brain",
    )  # fmt: skip
    parser.add_argument("--n4", action="store_true", help="correct the bias field by N4")
    parser.add_argument("--resample", type=float, default=0.0, metavar="MM", help="resample to cubic voxels of this size")


def reading_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """The fields of `Spec` that `add_reading` asked for."""
    processing = Processing(arguments.brain, arguments.n4, arguments.resample)
    return {"processing": processing, **{name: getattr(arguments, name) for name in READING}}


def add_cluster(parser: argparse.ArgumentParser) -> None:
    """The options that say where the work is done."""
    parser.add_argument("--workers", type=_positive, default=len(os.sched_getaffinity(0)), help="processes on this machine")
    parser.add_argument("--scheduler", help="address of a running Dask scheduler, e.g. tcp://host:8786, instead of --workers")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise UserError(f"--workers {text} must be at least 1")
    return number


def _whole(text: str) -> int:
    number = float(text)
    if not number.is_integer():  # nor are NaN and infinity
        raise argparse.ArgumentTypeError(f"{text} is no whole number")
    return int(number)


if __name__ == "__main__":
    run_main(main)
