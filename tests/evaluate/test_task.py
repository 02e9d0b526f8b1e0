"""Labels and units out of a manifest, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mri_fm.errors import UserError
from mri_fm.evaluate.task import read_task


def table(**columns: list[Any]) -> pa.Table:
    rows = len(next(iter(columns.values())))
    return pa.table({"contrast": ["T1"] * rows} | columns)


@pytest.mark.parametrize(
    ("values", "classes", "labels"),
    [
        (["b", "a", "b", "a"], ("a", "b"), [1, 0, 1, 0]),
        ([10, 2, 2, 10], ("2", "10"), [1, 0, 0, 1]),
        ([1.0, 0.0, 1.0, 0.0], ("0", "1"), [1, 0, 1, 0]),
        ([True, False, False, True], ("False", "True"), [1, 0, 0, 1]),
    ],
)
def test_classes_are_numbered_in_the_order_of_their_values(
    values: list[Any], classes: tuple[str, ...], labels: list[int]
) -> None:
    task = read_task(table(subject=list("abcd"), y=values), "y", "subject")
    assert task.classes == classes
    assert task.label_S.tolist() == labels


def test_rows_without_a_label_are_left_out_and_counted() -> None:
    task = read_task(table(subject=list("aabbcd"), y=["p", None, "q", "", "p", "q"]), "y", "subject")
    assert task.row_S.tolist() == [0, 2, 4, 5]
    assert task.missing == 2
    assert task.units == 4


def test_rows_without_a_unit_are_left_out_and_counted() -> None:
    task = read_task(table(subject=["a", None, "b", "c", "d"], y=[1, 1, 0, 0, 1]), "y", "subject")
    assert (task.row_S.tolist(), task.missing) == ([0, 2, 3, 4], 1)


def test_a_missing_float_is_missing() -> None:
    task = read_task(table(subject=list("abcde"), y=[1.0, float("nan"), 0.0, 1.0, 0.0]), "y", "subject")
    assert task.row_S.tolist() == [0, 2, 3, 4]
    assert task.classes == ("0", "1")


def test_units_are_numbered_whatever_their_type() -> None:
    task = read_task(table(site=[7, 9, 7, 3], y=[0, 1, 1, 0]), "y", "site")
    assert len(np.unique(task.unit_S)) == task.units == 3
    assert task.unit_S[0] == task.unit_S[2]


def test_rendered_volumes_say_what_they_are() -> None:
    columns = {"subject": list("abcd"), "y": [0, 1, 0, 1], "base": ["m", "m", "c", None]}
    rendered = read_task(table(kind=["variant", "variant", "variant", "individual"], **columns), "y", "subject")
    assert rendered.caption == "rendered, 2 base anatomies, no claim about people"
    real = read_task(table(kind=["individual"] * 4, **columns), "y", "subject")
    assert "rendered" not in real.caption


@pytest.mark.parametrize(
    ("columns", "label", "unit", "message"),
    [
        ({"subject": list("abcd"), "atrophy": [0, 1, 0, 1]}, "atropy", "subject", "did you mean 'atrophy'"),
        ({"subject": list("abcd"), "y": [0, 1, 0, 1]}, "y", "subjekt", "did you mean 'subject'"),
        ({"subject": list("abcd"), "y": [1, 1, None, 1]}, "y", "subject", "all 3 labelled volumes are '1'"),
        ({"subject": list("abcd"), "y": [None, None, None, ""]}, "y", "subject", "no volume"),
        ({"subject": list("abcd"), "y": [0.5, 1.5, 0.5, 1.5]}, "y", "subject", "are no classes"),
        ({"subject": list("abcd"), "y": [[1], [2], [1], [2]]}, "y", "subject", "holds lists"),
        ({"subject": ["a", "a", "b", "c"], "y": [1, 1, 0, 0]}, "y", "subject", "class '1' of 'y' lies within one subject"),
        ({"subject": [None, ""], "y": [1, 0]}, "y", "subject", "no volume has a value in this column"),
        ({"subject": list(map(str, range(42))), "y": list(range(21)) * 2}, "y", "subject", "21 distinct values"),
    ],
)
def test_what_cannot_be_probed_is_refused_in_one_line(
    columns: dict[str, list[Any]], label: str, unit: str, message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read_task(table(**columns), label, unit)
    assert "\n" not in str(caught.value)


def test_contrasts_restrict_the_rows_and_only_their_missing_labels_count() -> None:
    contrast = ["T1", "T1", "T1", "T2", "T2", "T2", "FLAIR", "FLAIR"]
    mixed = table(subject=list("abcdefgh"), y=[0, 1, None, 1, 0, None, 1, 0], contrast=contrast)
    everything = read_task(mixed, "y", "subject")
    assert (everything.row_S.tolist(), everything.missing, everything.contrasts) == (
        [0, 1, 3, 4, 6, 7],
        2,
        ("FLAIR", "T1", "T2"),
    )
    both = read_task(mixed, "y", "subject", ["T2", "FLAIR"])
    assert (both.row_S.tolist(), both.missing, both.contrasts) == ([3, 4, 6, 7], 1, ("FLAIR", "T2"))


@pytest.mark.parametrize("asked", [["PD"], ["T1", "PD"]])
def test_a_contrast_that_no_labelled_volume_has_is_refused_with_those_that_exist(asked: list[str]) -> None:
    mixed = table(subject=list("abcde"), y=[0, 1, 0, 1, None], contrast=["T1", "T1", "T2", "T2", "PD"])
    with pytest.raises(UserError, match=r"^--contrasts PD: .*: T1, T2$"):
        read_task(mixed, "y", "subject", asked)


def test_more_folds_than_units_are_refused() -> None:
    task = read_task(table(subject=list("abcd"), y=[0, 1, 0, 1]), "y", "subject")
    task.require_folds(4)
    with pytest.raises(UserError, match="--folds 4 or fewer"):
        task.require_folds(5)
