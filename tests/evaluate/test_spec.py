"""Task files: those that ship are valid, and what is wrong in one of the user's is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from mri_fm.errors import UserError
from mri_fm.evaluate.spec import load_task, task_names

PAPER = {"adni_nc_vs_ad", "adni_nc_vs_mci", "nacc_nc_vs_ad", "nacc_nc_vs_mci", "ucsf_pdgm_grade", "abide_autism"}


def test_the_paper_s_six_tasks_ship_and_every_shipped_task_is_valid() -> None:
    assert set(task_names()) >= PAPER
    kinds = {load_task(name)[1].kind for name in task_names()}
    assert kinds == {"classification", "regression", "survival"}


def test_a_file_of_the_user_s_is_read_and_its_table_lies_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("label: dx\ntable: scores.csv\nclasses: {well: [0, none], ill: [1]}\nsplit: {folds: 3}\n")
    name, spec = load_task(str(file))
    assert (name, spec.metric, spec.split.folds, spec.classes["well"]) == ("mine", "auroc", 3, [0, "none"])
    assert spec.table == str(tmp_path / "scores.csv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("label: dx\nclases: {a: [1], b: [2]}", "unknown key 'clases.b' in .*did you mean 'classes'"),
        ("label: dx\nsplit: {fold: 3}", "unknown key 'split.fold' in .*did you mean 'split.folds'"),
        ("label: dx\nsplit: {folds: 1}", "split.folds=1: at least 2"),
        ("label: dx\nsplit: {by: files}", r"split.files with \{part\}"),
        ("label: dx\nunit: person", "unit=person is not one of volume, session, subject"),
        ("label: dx\nmetric: r2", "metric=r2 is not one of auroc"),
        ("label: dx\nkind: survival", "event names the column"),
        ("label: dx\nclasses: {a: [1]}", "one class only"),
        ("kind: regression\nlabel: age\nclasses: {a: [1], b: [2]}", "classes are for kind=classification"),
        ("title: nothing", "label names no column"),
        ("split: {folds: many}\nlabel: dx", "many"),
        ("[1, 2]", "holds no keys"),
        ("label: [", "is not valid YAML"),
    ],
)
def test_mistakes_are_named_in_one_line(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        load_task(str(file))
    assert "\n" not in str(caught.value)


def test_an_unknown_task_is_told_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'adni_nc_vs_ad'"):
        load_task("adni_nc_vs_dd")
    with pytest.raises(UserError, match=r"nowhere\.yaml: no such file"):
        load_task("nowhere.yaml")
