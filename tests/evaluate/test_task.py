"""Units, labels and groups out of a manifest, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mri_fm.errors import UserError
from mri_fm.evaluate.published import splits_of
from mri_fm.evaluate.spec import SplitSpec, TaskSpec, label_task
from mri_fm.evaluate.task import Task, resolve_task


def table(**columns: list[Any]) -> pa.Table:
    rows = len(next(iter(columns.values())))
    return pa.table({"key": [f"k{i}" for i in range(rows)], "contrast": ["T1"] * rows} | columns)


def read_task(manifest: pa.Table, label: str, group: str, contrasts: list[str] | None = None) -> Task:
    return resolve_task(label, label_task(label, group, 5, contrasts or []), manifest)


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
    assert task.target.labels.tolist() == labels


def test_rows_without_a_label_are_left_out_and_counted() -> None:
    task = read_task(table(subject=list("aabbcd"), y=["p", None, "q", "", "p", "q"]), "y", "subject")
    assert task.row_V.tolist() == [0, 2, 4, 5]
    assert task.missing == 2
    assert task.groups == 4


def test_rows_without_a_group_are_left_out_and_counted() -> None:
    task = read_task(table(subject=["a", None, "b", "c", "d"], y=[1, 1, 0, 0, 1]), "y", "subject")
    assert (task.row_V.tolist(), task.missing) == ([0, 2, 3, 4], 1)


def test_a_missing_float_is_missing() -> None:
    task = read_task(table(subject=list("abcde"), y=[1.0, float("nan"), 0.0, 1.0, 0.0]), "y", "subject")
    assert task.row_V.tolist() == [0, 2, 3, 4]
    assert task.classes == ("0", "1")


def test_groups_are_numbered_whatever_their_type() -> None:
    task = read_task(table(site=[7, 9, 7, 3], y=[0, 1, 1, 0]), "y", "site")
    assert len(np.unique(task.group_S)) == task.groups == 3
    assert task.group_S[0] == task.group_S[2]


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
    assert (everything.row_V.tolist(), everything.missing, everything.contrasts) == (
        [0, 1, 3, 4, 6, 7],
        2,
        ("FLAIR", "T1", "T2"),
    )
    both = read_task(mixed, "y", "subject", ["T2", "FLAIR"])
    assert (both.row_V.tolist(), both.missing, both.contrasts) == ([3, 4, 6, 7], 1, ("FLAIR", "T2"))


@pytest.mark.parametrize("asked", [["PD"], ["T1", "PD"]])
def test_a_contrast_that_no_labelled_volume_has_is_refused_with_those_that_exist(asked: list[str]) -> None:
    mixed = table(subject=list("abcde"), y=[0, 1, 0, 1, None], contrast=["T1", "T1", "T2", "T2", "PD"])
    with pytest.raises(UserError, match=r"^y: contrasts PD: .*: T1, T2$"):
        read_task(mixed, "y", "subject", asked)


def test_more_folds_than_units_are_refused() -> None:
    task = read_task(table(subject=list("abcd"), y=[0, 1, 0, 1]), "y", "subject")
    task.require_folds(4)
    with pytest.raises(UserError, match="--folds 4 or fewer"):
        task.require_folds(5)


def sessions(dx: tuple[int, ...] = (1, 1, 1, 3, 3, 1, 3), **further: list[Any]) -> pa.Table:
    """Four people; a has two sessions, of which the second lacks T2; c and d have one contrast each."""
    columns = {
        "dataset": ["D"] * 7, "subject": list("aaabbcd"), "session": ["1", "1", "2", "1", "1", "1", "1"],
        "contrast": ["T1", "T2", "T1", "T1", "T2", "T2", "T1"], "dx": list(dx), "age": [60, 60, 62, None, 71.5, 50, 80],
        "sex": ["M", "M", "M", "F", "F", "", "F"],
    }  # fmt: skip
    return table(**columns, **further)


def spec(**fields: Any) -> TaskSpec:
    return TaskSpec(**{"label": "dx", "classes": {"NC": [1], "AD": [3]}, "unit": "session"} | fields)


def test_a_session_is_one_unit_of_several_contrasts_some_missing() -> None:
    task = resolve_task("t", spec(), sessions())
    assert task.slots == ("T1", "T2")
    assert task.unit_V.tolist() == [0, 0, 1, 2, 2, 3, 4]
    assert task.slot_V.tolist() == [0, 1, 0, 0, 1, 1, 0]
    assert task.target.labels.tolist() == [0, 0, 1, 0, 1]
    assert task.group_S.tolist() == [0, 0, 1, 2, 3]
    assert task.classes == ("NC", "AD")
    assert task.unit_names == ("a 1", "a 2", "b 1", "c 1", "d 1")
    assert task.covariates == {"age": [60.0, 62.0, 71.5, 50.0, 80.0], "sex": ["M", "M", "F", None, "F"]}


def test_a_subject_is_one_unit_and_must_agree_with_itself() -> None:
    task = resolve_task("t", spec(unit="subject"), sessions())
    assert task.unit_V.tolist() == [0, 0, 0, 1, 1, 2, 3]
    changed = sessions((1, 1, 3, 3, 3, 1, 3))
    assert len(resolve_task("t", spec(), changed).target) == 5
    with pytest.raises(UserError, match="subject 'a' has the labels '1' and '3' in 'dx'"):
        resolve_task("t", spec(unit="subject"), changed)


@pytest.mark.parametrize(
    ("fields", "rows"),
    [
        ({"keep": {"session": [1]}}, [0, 1, 3, 4, 5, 6]),
        ({"exclude": {"subject": ["a"]}}, [3, 4, 5, 6]),
        ({"contrasts": ["T2"]}, [1, 4, 5]),
        ({"dataset": ["d"]}, [0, 1, 2, 3, 4, 5, 6]),
        ({"contrast_column": "series", "contrasts": ["T1c"]}, [4, 5, 6]),
    ],
)
def test_conditions_choose_rows(fields: dict[str, Any], rows: list[int]) -> None:
    manifest = sessions(score=[1.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0], series=["T1"] * 4 + ["T1c"] * 3)
    chosen = resolve_task("t", TaskSpec(label="score", kind="regression", **fields), manifest)
    assert chosen.row_V.tolist() == rows


def test_a_dataset_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(UserError, match="dataset=ADNI: the corpus has none of it, but D"):
        resolve_task("t", spec(dataset=["ADNI"]), sessions())


def test_times_and_events_make_a_survival_task() -> None:
    manifest = table(subject=list("abcd"), days=[5, 9, 2, 7], died=[1, 0, 1, 0])
    task = resolve_task("t", TaskSpec(label="days", kind="survival", event="died"), manifest)
    assert task.target.event_S.tolist() == [True, False, True, False]
    odd = table(subject=list("abcd"), days=[5, 9, 0, 7], died=[1, 0, 1, 0])
    with pytest.raises(UserError, match="'days' above 0"):
        resolve_task("t", TaskSpec(label="days", kind="survival", event="died"), odd)
    odd = table(subject=list("abcd"), days=["5", "long", "1", "2"], died=[1, 0, 1, 0])
    with pytest.raises(UserError, match="column 'days' holds 'long', which is no number"):
        resolve_task("t", TaskSpec(label="days", kind="survival", event="died"), odd)


def test_a_csv_brings_further_columns(tmp_path: Path) -> None:
    file = tmp_path / "scores.csv"
    file.write_text("subject,mmse\na,30\nb,21\nc,27\nd,25\n")
    with_table = TaskSpec(label="mmse", kind="regression", table=str(file))
    assert resolve_task("t", with_table, sessions()).target.value_S.tolist() == [30, 30, 30, 21, 21, 27, 25]
    file.write_text("subject,mmse\na,30\na,21\n")
    with pytest.raises(UserError, match="two rows for a, lines 2 and 3"):
        resolve_task("t", with_table, sessions())
    file.write_text("person,mmse\na,30\n")
    with pytest.raises(UserError, match="no column key, scan_uid or subject to join it by"):
        resolve_task("t", with_table, sessions())
    file.write_text("subject,mmse\nx,30\n")
    with pytest.raises(UserError, match="no volume of the corpus has one of its values of subject"):
        resolve_task("t", with_table, sessions())


def people(parts: list[str | None]) -> pa.Table:
    return table(subject=list("aabbccdd"), y=[0, 0, 1, 1, 0, 0, 1, 1], fold=parts, scan_uid=[f"I{i}" for i in range(8)])


def test_a_column_fixes_the_split_and_nobody_is_in_two_parts() -> None:
    manifest = people(["train"] * 4 + ["test"] * 4)
    by_column = TaskSpec(label="y", split=SplitSpec(by="column", column="fold"))
    (split,) = splits_of(resolve_task("t", by_column, manifest), manifest, None, seed=0)
    assert (split.train.tolist(), split.validation.tolist(), split.test.tolist()) == ([0, 1, 2, 3], [], [4, 5, 6, 7])
    manifest = people(["train"] * 3 + ["test"] * 5)
    with pytest.raises(UserError, match="in both train and test, for instance that of k2"):
        splits_of(resolve_task("t", by_column, manifest), manifest, None, seed=0)


def test_published_lists_are_reproduced_scan_by_scan(tmp_path: Path) -> None:
    manifest = people([None] * 8)
    lists = TaskSpec(label="y", split=SplitSpec(files="s_{part}.csv"))
    task = resolve_task("t", lists, manifest)
    for part, lines in {"train": "a,I0\nb,I2\nb,I3", "val": "c,I5", "test": "d,I6"}.items():
        (tmp_path / f"s_{part}.csv").write_text(f"subject_id,scan_uid\n{lines}\n")
    (tmp_path / "s_test.csv").write_text("subject_id,scan_uid\nd,I6\nc,I4\n")
    with pytest.raises(UserError, match="in both validation and test"):
        splits_of(task, manifest, tmp_path, seed=0)
    (tmp_path / "s_test.csv").write_text("subject_id,scan_uid\nd,I6\n")
    (split,) = splits_of(task, manifest, tmp_path, seed=0)
    assert (split.train.tolist(), split.validation.tolist(), split.test.tolist()) == ([0, 2, 3], [5], [6])
    (tmp_path / "s_test.csv").unlink()
    with pytest.raises(UserError, match=r"s_test.csv cannot be read"):
        splits_of(task, manifest, tmp_path, seed=0)
