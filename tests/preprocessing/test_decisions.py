"""What pass 1 remembers, and inputs that take their reader with them."""

import os
import shutil
from pathlib import Path

import pytest

from mri_fm.volume.discover import Input, find_inputs, list_files
from preprocessing import decisions
from preprocessing.build import Spec
from preprocessing.decisions import decide, examine_alone
from preprocessing.knowledge import know
from preprocessing.place import Folder
from preprocessing.runner import run_here
from preprocessing.tasks import Decision

MARKED = (Input("a.nii", ("a.nii",)), "mark")


def die(marked: tuple[Input, str]) -> Decision:
    os._exit(3)


def survive(marked: tuple[Input, str]) -> Decision:
    return Decision(marked[0].source_path, marked[1], "label", "few values")


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
        decide(run_here, str(raw), place, inputs, files, Spec(), knowledge)
    monkeypatch.setattr(decisions, "examine", lambda *a, **o: seen.append(a[-1][0].source_path) or real(*a, **o))
    found = decide(run_here, str(raw), place, inputs, files, Spec(), knowledge)
    assert seen == [item.source_path for item in inputs] == list(found)
    assert place.children("private") == ["decisions.json", "scratch"]
    assert decide(run_here, str(raw), place, inputs, files, Spec(), knowledge) == found
    assert len(seen) == len(inputs)


def test_crashes_and_other_specifications_are_not_remembered(tmp_path: Path) -> None:
    memory = decisions._Memory(Folder(tmp_path), "spec")
    memory.keep({"a": Decision("a", "m", "reader_crashed", ""), "b": Decision("b", "m", "label", "")})
    assert list(memory.recall()) == ["b"]
    assert decisions._Memory(Folder(tmp_path), "other").recall() == {}
