"""`mri-fm`: what needs no training and no checkout.

mri-fm embed FOLDER --encoder DIR --out table.parquet
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mri_fm.errors import UserError, run_main
from mri_fm.volume.discover import Input, find_inputs, list_files
from mri_fm.volume.readers import FORMATS

if TYPE_CHECKING:
    from mri_fm.export.encoder import Encoder

ENCODER_VARIABLE = "MRI_FM_ENCODER"


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line.

    Raises:
        UserError: no encoder, or a batch below one.
    """
    parser = argparse.ArgumentParser(prog="mri-fm", description="Features of brain MRI from a pretrained encoder.")
    commands = parser.add_subparsers(dest="command", required=True)
    embed = commands.add_parser("embed", help="one row for each scan below a folder: its embedding, or why it was refused")
    embed.add_argument("folder", type=Path, help="scans in any format that the corpus build reads; only read")
    embed.add_argument("--encoder", type=Path, default=os.environ.get(ENCODER_VARIABLE),
                       help=f"folder that python -m mri_fm.export wrote (default: ${ENCODER_VARIABLE})")  # fmt: skip
    embed.add_argument("--out", type=Path, required=True, help="parquet file")
    embed.add_argument("--batch-size", type=int, default=4, help="scans encoded at once (default: %(default)s)")
    embed.add_argument("--device", help="for instance cuda:1 or cpu (default: a GPU where there is one)")
    options = parser.parse_args(words)
    if options.encoder is None:
        raise UserError(f"no encoder: give --encoder DIR, which python -m mri_fm.export writes, or set {ENCODER_VARIABLE}")
    if options.batch_size < 1:
        raise UserError(f"--batch-size {options.batch_size}: at least one scan is encoded at once")
    return options


def embed_folder(options: argparse.Namespace) -> None:
    """Embed every scan below `options.folder` and say how many there were.

    Raises:
        UserError: no scan, no export, no such device, or no place to write to.
    """
    if options.out.is_dir():
        raise UserError(f"--out {options.out} is a folder; name a parquet file")
    inputs = find_scans(options.folder, but=options.out)  # before torch is loaded, which takes seconds
    from mri_fm.export.encoder import load_encoder
    from mri_fm.export.table import Source, write_table

    encoder = load_encoder(options.encoder)
    _move(encoder, options.device)
    sources = [Source(i.source_path, tuple(options.folder / file for file in i.files), i.series) for i in inputs]
    counts = write_table(encoder, sources, options.out, batch_size=options.batch_size)
    print(f"{len(sources)} scans = {counts['accepted']} accepted ({counts['warned']} warned) + {counts['refused']} refused")
    print(options.out)


def find_scans(folder: Path, *, but: Path) -> list[Input]:
    """The scans below a folder, found as the corpus build finds them; `but` is no scan, though an earlier table may lie there.

    Raises:
        UserError: no such folder, or no scan in it.
    """
    if not folder.is_dir():
        raise UserError(f"no folder {folder}: give the folder of your scans")
    files = {path: state for path, state in list_files(folder).items() if (folder / path).absolute() != but.absolute()}
    inputs = find_inputs(folder, files)
    if not inputs:
        raise UserError(f"no scan in {folder}: put {FORMATS} or DICOM files there")
    return inputs


def _move(encoder: Encoder, device: str | None) -> None:
    import torch

    try:
        encoder.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {device} cannot be used: {str(error).splitlines()[0]}") from error


def main() -> None:
    """The entry point of the package."""
    run_main(lambda: embed_folder(parse()))


if __name__ == "__main__":
    main()
