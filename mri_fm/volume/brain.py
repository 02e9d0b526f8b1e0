"""What counts as foreground: what stands out of the air (the default), a mask beside the image, or what a tool calls brain.

A tool is a command that is installed by itself; it gets the canonical volume as NIfTI and leaves a mask.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray

from mri_fm.errors import UserError
from mri_fm.volume.orient import to_ras
from mri_fm.volume.read import read_volume
from mri_fm.volume.refusal import Refusal

FOREGROUND, MASK = "foreground", "mask"
TIMEOUT_S = 1800
FSL_FORMAT = {"FSLOUTPUTTYPE": "NIFTI_GZ"}  # else a user's own setting decides on the name of BET's mask
GRID_TOLERANCE_MM = 0.01
MASK_NAMES = ("_mask", "_brainmask", "_brain_mask", "_desc-brain_mask")
MASK_SUFFIXES = (".nii.gz", ".nii", ".mgz")
IMAGE_SUFFIXES = (".nii.gz", ".nii", ".mgz", ".mgh")


@dataclass(frozen=True)
class Tool:
    """An extraction tool: its program, its arguments for (image, output), and where it leaves the mask of an output."""

    program: str
    arguments: Callable[[Path, Path], list[str]]
    mask_of: Callable[[Path], Path]


def _beside(ending: str) -> Callable[[Path], Path]:
    return lambda output: output.with_name(output.name.removesuffix(".nii.gz") + ending)


TOOLS = {
    "synthstrip": Tool("mri_synthstrip", lambda image, output: ["-i", str(image), "-m", str(output)], lambda output: output),
    "hd-bet": Tool(  # version 2; the first one had other options, and ends with the usage
        "hd-bet",
        lambda image, output: ["-i", str(image), "-o", str(output), "-device", "cpu", "--save_bet_mask", "--no_bet_image"],
        _beside("_bet.nii.gz"),
    ),
    "bet": Tool("bet", lambda image, output: [str(image), str(output), "-m", "-n"], _beside("_mask.nii.gz")),
}
CHOICES = (FOREGROUND, MASK, *TOOLS)


def check_brain(choice: str) -> None:
    """Refuse what is no choice, and a tool that is not installed.

    Raises:
        UserError: it is one of these.
    """
    if choice not in CHOICES:
        raise UserError(f"--brain {choice} is not known: take {', '.join(CHOICES)}")
    if choice in TOOLS and shutil.which(TOOLS[choice].program) is None:
        raise UserError(f"--brain {choice} needs the program {TOOLS[choice].program}, which is not on PATH: install it")


def mask_names(image: str) -> list[str]:
    """Paths under which the mask of an image may lie beside it."""
    stem = next((image[: -len(end)] for end in IMAGE_SUFFIXES if image.lower().endswith(end)), image)
    without_suffix = stem.rpartition("_")[0]  # BIDS: sub-1_T1w → sub-1_desc-brain_mask
    stems = [stem, without_suffix] if without_suffix else [stem]
    return [f"{start}{name}{end}" for start in stems for name in MASK_NAMES for end in MASK_SUFFIXES]


def find_mask(image: str, files: Iterable[str]) -> str | None:
    """The mask of an image among some files; None where there is none."""
    known = set(files)
    return next((name for name in mask_names(image) if name in known), None)


def brain_mask(
    choice: str, voxels_ZYX: NDArray[np.int16], affine: NDArray[np.float64], image: Path | None
) -> NDArray[np.bool_] | None:
    """The brain of a canonical volume; None where the foreground is to be found by intensity.

    Args:
        choice: one of `CHOICES`.
        voxels_ZYX: canonical int16 on the RAS+ grid.
        affine: (x, y, z, 1) → RAS+ mm.
        image: the file that it came from, where it is one file.

    Raises:
        Refusal: no_brain_mask.
    """
    if choice == FOREGROUND:
        return None
    mask = _mask_beside(image) if choice == MASK else _run(TOOLS[choice], voxels_ZYX, affine)
    found, grid = mask
    if found.shape != voxels_ZYX.shape or not np.allclose(grid, affine, atol=GRID_TOLERANCE_MM):
        raise Refusal("no_brain_mask", f"the mask of shape {found.shape} lies on another grid than the image")
    if not found.any():
        raise Refusal("no_brain_mask", "the mask is empty")
    return found


def _mask_beside(image: Path | None) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    path = next((path for name in mask_names(str(image)) if (path := Path(name)).is_file()), None) if image else None
    if path is None:
        raise Refusal("no_brain_mask", "there is no mask beside it")
    ras = to_ras(read_volume(path))
    return ras.array > 0, ras.affine


def _run(
    tool: Tool, voxels_ZYX: NDArray[np.int16], affine: NDArray[np.float64]
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    with tempfile.TemporaryDirectory(prefix="brain-") as folder:
        image, output = Path(folder, "image.nii.gz"), Path(folder, "brain.nii.gz")
        nibabel.save(nibabel.Nifti1Image(voxels_ZYX.T, affine), image)
        command = [tool.program, *tool.arguments(image, output)]
        try:
            done = subprocess.run(
                command, env=os.environ | FSL_FORMAT, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S,
                check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise Refusal("no_brain_mask", f"{tool.program} did not finish in {TIMEOUT_S} s") from error
        if done.returncode or not tool.mask_of(output).is_file():
            said = (done.stderr or done.stdout).strip().splitlines()[-1:]
            raise Refusal("no_brain_mask", f"{tool.program} ended with code {done.returncode}: {' '.join(said)}")
        ras = to_ras(read_volume(tool.mask_of(output)))
        return np.array(ras.array) > 0, ras.affine
