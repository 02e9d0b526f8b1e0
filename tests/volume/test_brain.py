"""Foreground by a mask or by a tool. The tools are stood in for by a small program on PATH that keeps their command lines."""

import os
import stat
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from mri_fm.errors import UserError
from mri_fm.volume.brain import TOOLS, check_brain, find_mask
from mri_fm.volume.prepare import prepare_files
from mri_fm.volume.processing import Processing
from mri_fm.volume.refusal import Refusal
from tests.corpora import flipped, resampled

PROGRAM = """#!{python}
# Keeps the command line of SynthStrip, HD-BET 2.0 or FSL's BET, and writes what they do: the brightest half as the brain.
import argparse, os, sys, nibabel, numpy as np
name = sys.argv[0].rpartition("/")[2]
parser = argparse.ArgumentParser(allow_abbrev=False)
if name == "mri_synthstrip":
    parser.add_argument("-i", "--image", required=True)
    parser.add_argument("-o", "--out")
    parser.add_argument("-m", "--mask")
    options = parser.parse_args()
    image, brain, mask = options.image, options.out, options.mask
elif name == "hd-bet":
    parser.add_argument("-i", "--input", required=True)
    parser.add_argument("-o", "--output")
    parser.add_argument("-device", default="cuda", choices=["cpu"])  # this machine has no GPU
    parser.add_argument("--disable_tta", action="store_true")
    parser.add_argument("--save_bet_mask", action="store_true")
    parser.add_argument("--no_bet_image", action="store_true")
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    assert options.output.endswith(".nii.gz")
    image, brain = options.input, None if options.no_bet_image else options.output
    mask = options.output[:-7] + "_bet.nii.gz" if options.save_bet_mask else None
else:
    parser.add_argument("image")
    parser.add_argument("output")
    parser.add_argument("-m", dest="mask", action="store_true")
    parser.add_argument("-n", dest="no_image", action="store_true")
    options = parser.parse_args()
    stem, suffix = options.output.removesuffix(".nii.gz"), dict(NIFTI=".nii", NIFTI_GZ=".nii.gz")[os.environ["FSLOUTPUTTYPE"]]
    image, brain = options.image, None if options.no_image else stem + suffix
    mask = stem + "_mask" + suffix if options.mask else None
if {fails}:
    sys.exit("no licence")
loaded = nibabel.load(image)
inside = np.asarray(loaded.dataobj) > {threshold}
for array, path in ((inside, mask), (np.asarray(loaded.dataobj) * inside, brain)):
    if path:
        nibabel.save(nibabel.Nifti1Image(array.astype(np.int16), loaded.affine), path)
"""


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    nibabel.save(flipped(resampled((5, 5, 5)), "LPS"), tmp_path / "sub-1_T1w.nii.gz")
    return tmp_path / "sub-1_T1w.nii.gz"


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, program: str, *, fails: bool = False, threshold: int = 100) -> None:
    folder.mkdir(exist_ok=True)
    path = folder / program
    path.write_text(PROGRAM.format(python=sys.executable, fails=fails, threshold=threshold))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.parametrize("name", TOOLS)
def test_a_tools_mask_is_the_foreground(scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    install(tmp_path / "bin", monkeypatch, TOOLS[name].program)
    monkeypatch.setenv("FSLOUTPUTTYPE", "NIFTI")
    prepared = prepare_files([scan], series=False, max_spacing=6.5, processing=Processing(brain=name))
    inside = prepared.crop.voxels[prepared.crop.voxels != 0]
    assert inside.min() > 100
    assert inside.size == (prepared.canonical.voxels > 100).sum()


def test_a_tool_that_fails_or_finds_nothing_refuses_the_scan(
    scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for options, words in (({"fails": True}, "ended with code 1: no licence"), ({"threshold": 32767}, "mask is empty")):
        install(tmp_path / "bin", monkeypatch, "bet", **options)
        with pytest.raises(Refusal, match=words) as refused:
            prepare_files([scan], series=False, max_spacing=6.5, processing=Processing(brain="bet"))
        assert refused.value.code == "no_brain_mask"


def test_a_mask_beside_the_image_in_any_orientation(scan: Path) -> None:
    array = np.asarray(nibabel.load(scan).dataobj)
    mask = nibabel.Nifti1Image((array > 50).astype(np.uint8), nibabel.load(scan).affine)
    nibabel.save(flipped(mask, "RAS"), scan.with_name("sub-1_desc-brain_mask.nii.gz"))
    prepared = prepare_files([scan], series=False, max_spacing=6.5, processing=Processing(brain="mask"))
    assert (prepared.crop.voxels != 0).sum() == (array > 50).sum()
    nibabel.save(nibabel.Nifti1Image(np.ones((9, 9, 9), np.uint8), np.eye(4)), scan.with_name("sub-1_T1w_mask.nii.gz"))
    with pytest.raises(Refusal, match="another grid"):  # the more particular name wins
        prepare_files([scan], series=False, max_spacing=6.5, processing=Processing(brain="mask"))


def test_no_mask_is_a_refusal(scan: Path) -> None:
    with pytest.raises(Refusal, match="no mask beside it"):
        prepare_files([scan], series=False, max_spacing=6.5, processing=Processing(brain="mask"))
    assert find_mask("a/x.nii.gz", ["a/x_mask.nii", "b/x_mask.nii"]) == "a/x_mask.nii"
    assert find_mask("a/x.nii.gz", ["a/xx_mask.nii"]) is None


def test_choices_are_checked_before_anything_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match="program hd-bet, which is not on PATH"):
        check_brain("hd-bet")
    with pytest.raises(UserError, match="not known"):
        check_brain("scissors")
