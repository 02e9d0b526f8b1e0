"""Look at checkpoints, check them, and take weights out of them.

    python -m mri_fm.engine.checkpoint inspect PATH                what each is of, its size, and whether its files are there
    python -m mri_fm.engine.checkpoint verify PATH                 compare the files with their checksums; 1 if one differs
    python -m mri_fm.engine.checkpoint consolidate PATH --out FILE all weights, whole and in fp32, as one safetensors file

PATH is a run's folder or one of its checkpoints.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from math import prod
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from mri_fm.engine.publication import LATEST_FILE, META_FILE, complete_steps, step_name, verify_checkpoint
from mri_fm.engine.stored import Stored, read_meta
from mri_fm.errors import UserError


def checkpoints_at(path: Path) -> list[Path]:
    """The checkpoint at a path, or all those of the run there, oldest first.

    Raises:
        UserError: there is none.
    """
    if (path / META_FILE).is_file():
        return [path]
    folder = path if path.name == "checkpoints" else path / "checkpoints"
    found = [folder / step_name(step) for step in complete_steps(folder)]
    if not found:
        raise UserError(f"no checkpoint at {path}: give a run's folder or one of its checkpoints")
    return found


def inspect(path: Path) -> int:
    """Print one line per checkpoint."""
    for checkpoint in checkpoints_at(path):
        if not (checkpoint / META_FILE).is_file():
            print(f"{checkpoint.name}: {META_FILE} is missing")
            continue
        meta = read_meta(checkpoint)
        weights = sum(prod(shape) for shape in meta["shapes"].values())
        size = sum(file.stat().st_size for file in checkpoint.iterdir())
        pointer = checkpoint.parent / LATEST_FILE
        latest = " (latest)" if pointer.is_file() and pointer.read_text().strip() == checkpoint.name else ""
        print(
            f"{checkpoint.name}{latest}: step {meta['step']}, position {meta['position']}, {weights:,} weights, "
            f"{size / 1e9:.3g} GB by {meta['world']} ranks, {meta['skips']} skips"
        )
    return 0


def verify(path: Path) -> int:
    """Print what is wrong with each checkpoint; 1 if anything is."""
    problems = {checkpoint.name: verify_checkpoint(checkpoint) for checkpoint in checkpoints_at(path)}
    for name, problem in problems.items():
        print(f"{name}: {problem or 'whole'}")
    return int(any(problems.values()))


def consolidate(path: Path, out: Path, part: str | None) -> int:
    """Write the newest checkpoint's weights to one file.

    Raises:
        UserError: it is damaged, or has no such part.
    """
    checkpoint = checkpoints_at(path)[-1]
    problem = verify_checkpoint(checkpoint)
    if problem is not None:
        raise UserError(f"{checkpoint} is damaged: {problem}")
    weights = select_part(dict(Stored(checkpoint).weights()), part)
    try:
        save_file(weights, out)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{out} cannot be written ({error})") from error
    print(f"{out}: {len(weights)} tensors of {checkpoint.name}")
    return 0


def select_part(weights: dict[str, Tensor], part: str | None) -> dict[str, Tensor]:
    """The weights whose names begin with `part.`, without it.

    Raises:
        UserError: there are none.
    """
    if part is None:
        return weights
    chosen = {name.removeprefix(f"{part}."): tensor for name, tensor in weights.items() if name.startswith(f"{part}.")}
    if not chosen:
        parts = sorted({name.partition(".")[0] for name in weights})
        raise UserError(f"--part {part}: the checkpoint's parts are {', '.join(parts)}")
    return chosen


def main(arguments: Sequence[str]) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m mri_fm.engine.checkpoint",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("inspect", "verify", "consolidate"):
        command = commands.add_parser(name)
        command.add_argument("path", type=Path)
        if name == "consolidate":
            command.add_argument("--out", type=Path, required=True)
            command.add_argument("--part", help="only this part, without its prefix: student, teacher, predictor, …")
    options = parser.parse_args(arguments)
    if options.command == "consolidate":
        return consolidate(options.path, options.out, options.part)
    return inspect(options.path) if options.command == "inspect" else verify(options.path)
