"""What pass 1 remembers, and inputs that take their reader with them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel
import pytest

from mri_fm.volume.discover import Input, find_inputs, list_files
from preprocessing import decisions
from preprocessing.build import Spec
from preprocessing.decisions import decide, examine_alone
from preprocessing.knowledge import know
from preprocessing.place import Folder
from preprocessing.runner import run_here
from preprocessing.tables import read_ledger
from preprocessing.tasks import Decision
from tests.corpora import resampled

MARKED = (Input("a.nii", ("a.nii",)), "mark")


def die(marked: tuple[Input, str]) -> Decision:
    os._exit(3)


def survive(marked: tuple[Input, str]) -> Decision:
    return Decision(marked[0].source_path, marked[1], "label", "few values")


def in_this_process(function: Any, items: Any, label: str, crashed: Any, arrived: Any) -> list[Any]:
    """The runner, with functions that no other process could be given."""
    return run_here(function, items, label, arrived=arrived)


def test_a_second_try_alone_tells_the_guilty_from_their_neighbours() -> None:
    assert examine_alone(survive, MARKED).code == "label"
    assert examine_alone(die, MARKED).code == "reader_crashed"


def test_a_pass_that_is_stopped_goes_on_where_it_was(tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw, place = tmp_path / "raw", Folder(tmp_path / "out")
    shutil.copytree(corpus.parent / "raw", raw)
    files = list_files(raw)
    inputs = find_inputs(raw, files)
    knowledge = know(raw, files, inputs, b"key")
    monkeypatch.setattr(decisions, "SAVE_EVERY_S", -1.0)  # after each decision
    real, seen = decisions.examine, []

    def stop_at_fourth(
        raw: str, max_spacing: float, reference_volume: bool, marked: tuple[Input, str], **options: object
    ) -> Decision:
        if len(seen) == 3:
            raise KeyboardInterrupt
        seen.append(marked[0].source_path)
        return real(raw, max_spacing, reference_volume, marked, **options)

    monkeypatch.setattr(decisions, "examine", stop_at_fourth)
    with pytest.raises(KeyboardInterrupt):
        decide(in_this_process, str(raw), place, inputs, files, Spec(), knowledge)
    monkeypatch.setattr(decisions, "examine", lambda *a, **o: seen.append(a[-1][0].source_path) or real(*a, **o))
    found = decide(in_this_process, str(raw), place, inputs, files, Spec(), knowledge)
    assert seen == [item.source_path for item in inputs] == list(found)
    assert place.children("private") == ["decisions.json", "scratch"]
    assert decide(in_this_process, str(raw), place, inputs, files, Spec(), knowledge) == found
    assert len(seen) == len(inputs)


KILLER = """#!{python}
# Keeps the command line of BET, but kills who called it for the scan of {depth} slices.
import os, signal, sys, nibabel, numpy as np
image = nibabel.load(sys.argv[1])
if image.shape[2] == {depth}:
    os.kill(os.getppid(), signal.SIGKILL)
nibabel.save(nibabel.Nifti1Image(np.ones(image.shape, np.uint8), image.affine), sys.argv[2][:-7] + "_mask.nii.gz")
"""


def test_one_worker_outlives_an_input_that_kills_its_reader(tmp_path: Path) -> None:
    """Twice, since the first death may have been a neighbour's fault; then it is one refused row."""
    (tmp_path / "raw").mkdir()
    for number, spacing in enumerate((8, 9, 10)):
        nibabel.save(resampled((8, 8, spacing)), tmp_path / f"raw/scan{number}.nii.gz")
    program = tmp_path / "bin/bet"
    program.parent.mkdir()
    program.write_text(KILLER.format(python=sys.executable, depth=resampled((8, 8, 9)).shape[2]))
    program.chmod(0o755)
    path = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
    command = [sys.executable, "-m", "preprocessing.build_shards", "--raw", tmp_path / "raw", "--out", tmp_path / "corpus"]
    options = ["--workers", "1", "--brain", "bet", "--max-spacing", "20"]
    done = subprocess.run([*command, *options], env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = {row["source_path"]: (row["decision"], row["code"]) for row in read_ledger(Folder(tmp_path / "corpus"))}
    accepted = ("accepted", "")
    assert rows == {"scan0.nii.gz": accepted, "scan1.nii.gz": ("refused", "reader_crashed"), "scan2.nii.gz": accepted}


def test_crashes_and_other_specifications_are_not_remembered(tmp_path: Path) -> None:
    memory = decisions._Memory(Folder(tmp_path), "spec")
    memory.keep({"a": Decision("a", "m", "reader_crashed", ""), "b": Decision("b", "m", "label", "")})
    assert list(memory.recall()) == ["b"]
    assert decisions._Memory(Folder(tmp_path), "other").recall() == {}
