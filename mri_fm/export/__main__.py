"""`python -m mri_fm.export`: a trained encoder to take along, in the layout of Hugging Face's hub."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mri_fm.errors import run_main
from mri_fm.export.run import Request, export_run


def parse(words: Sequence[str] | None = None) -> Request:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m mri_fm.export", description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="run folder of train.py")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; an earlier export there is replaced")
    parser.add_argument("--encoder", choices=("teacher", "student"), help="default: the one the objective keeps")
    parser.add_argument("--step", type=int, help="checkpoint to export (default: the newest, if the run is finished)")
    parser.add_argument("--corpus", help="where the run's corpus lies now (default: where it lay in training)")
    parser.add_argument("--licence", help="of the weights, for instance cc-by-4.0; the data's terms decide what it may be")
    return Request(**vars(parser.parse_args(words)))


def main(words: Sequence[str] | None = None) -> None:
    """Export and print where the folder lies."""
    print(export_run(parse(words), say=lambda line: print(line, file=sys.stderr, flush=True)))


if __name__ == "__main__":
    run_main(main)
