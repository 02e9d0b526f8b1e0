"""Planted confounders are seen and taken away, and planted leaks are found.

Axes: S units, F features.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pyarrow as pa
import pytest

from mri_fm.errors import UserError
from mri_fm.evaluate.adjust import fit_harmonised, fit_residual, numeric, with_covariates
from mri_fm.evaluate.combat import ComBat
from mri_fm.evaluate.compare import null_distribution, out_of_fold, permute
from mri_fm.evaluate.confounders import _joined, audit, confounders, covariate_report, subgroups
from mri_fm.evaluate.features import Features
from mri_fm.evaluate.learning_curve import learning_curve
from mri_fm.evaluate.linear import fit_linear
from mri_fm.evaluate.methods import Method
from mri_fm.evaluate.metrics import Scores, auroc, measure
from mri_fm.evaluate.spec import SplitSpec, TaskSpec
from mri_fm.evaluate.splits import Split, cross_validation, require_disjoint
from mri_fm.evaluate.target import Ints, Target
from mri_fm.evaluate.task import Task, resolve_task
from mri_fm.evaluate.training import Fitted, TrainingPart

PEOPLE = 96


def task_of(**columns: list[object]) -> Task:
    rows = len(columns["dx"])
    manifest = {"key": [f"k{i}" for i in range(rows)], "subject": [f"s{i}" for i in range(rows)], "contrast": ["T1"] * rows}
    return resolve_task("dx", TaskSpec(label="dx", split=SplitSpec(folds=3)), pa.table(manifest | columns))


def value(features: Features, label_S: Ints, fit: object) -> float:
    target, group_S = Target.of_classes(label_S), np.arange(len(label_S))
    _, scores = out_of_fold(features, target, group_S, cross_validation(target, group_S, 3, seed=0), fit, seed=0)  # type: ignore[arg-type]
    return float(measure("auroc", scores)[0])


def test_combat_finds_the_shift_and_scale_that_sites_were_given() -> None:
    rng = np.random.default_rng(0)
    site_S, age_S1 = np.arange(600) % 3, rng.normal(60, 10, (600, 1))
    clean_SF = rng.normal(size=(600, 12)) + 0.1 * age_S1 + rng.normal(size=12)
    shift_IF, scale_IF = rng.normal(0, 2, (3, 12)), rng.uniform(0.5, 2.0, (3, 12))
    noise_SF = clean_SF - 0.1 * age_S1 - (clean_SF - 0.1 * age_S1).mean(axis=0)
    spoilt_SF = clean_SF + noise_SF * (scale_IF[site_S] - 1) + shift_IF[site_S]
    model = ComBat.fit(spoilt_SF, site_S, age_S1)
    mended_SF = model.apply(spoilt_SF, site_S, age_S1)
    for site in range(3):
        part = mended_SF[site_S == site] - 0.1 * age_S1[site_S == site]
        whole = mended_SF - 0.1 * age_S1
        np.testing.assert_allclose(part.mean(axis=0), whole.mean(axis=0), atol=0.12 * whole.std(axis=0).max())
        np.testing.assert_allclose(part.std(axis=0), whole.std(axis=0), rtol=0.12)
    slope_F = np.polyfit(age_S1[:, 0], mended_SF, 1)[0]
    np.testing.assert_allclose(slope_F, 0.1, atol=0.03)  # the age is kept
    np.testing.assert_array_equal(model.apply(spoilt_SF[:5], np.full(5, -1), age_S1[:5]), spoilt_SF[:5])


def test_combat_shrinks_the_effects_of_small_sites() -> None:
    rng = np.random.default_rng(1)
    site_S = np.array([0] * 200 + [1] * 3)
    model = ComBat.fit(rng.normal(size=(203, 40)), site_S, np.zeros((203, 0)))
    raw_F = np.abs(rng.normal(size=(3, 40)).mean(axis=0)).mean()
    assert np.abs(model.shift_IF[1]).mean() < 0.8 * raw_F


def test_a_label_that_is_the_age_is_gone_without_age() -> None:
    """The feature follows age, and the ill are older: nothing is left within an age; an own effect of the label stays."""
    rng = np.random.default_rng(2)
    label_S = np.arange(PEOPLE) % 2
    age_S1 = 60.0 + 8 * label_S[:, None] + rng.normal(0, 5, (PEOPLE, 1))
    follows = age_S1 / 5 + rng.normal(0, 0.3, (PEOPLE, 4))
    raw, adjusted = value(Features.plain(follows), label_S, fit_linear), partial(fit_residual, covariates=1)
    assert raw > 0.75
    assert value(with_covariates(Features.plain(follows), age_S1), label_S, adjusted) < 0.65
    own = rng.normal(0, 1, (PEOPLE, 4)) + 1.5 * label_S[:, None]
    assert value(with_covariates(Features.plain(own), age_S1), label_S, adjusted) > 0.75


def test_harmonising_takes_away_what_only_the_site_gives() -> None:
    rng = np.random.default_rng(3)
    label_S = np.arange(PEOPLE) % 2
    site_S = np.where(rng.random(PEOPLE) < 0.8, label_S, 1 - label_S)
    feature_SF = rng.normal(size=(PEOPLE, 6)) + 3.0 * site_S[:, None]
    assert value(Features.plain(feature_SF), label_S, fit_linear) > 0.7
    harmonised = with_covariates(Features.plain(feature_SF), site_S[:, None].astype(np.float64))
    assert value(harmonised, label_S, partial(fit_harmonised, covariates=0)) < 0.65


def test_test_units_leave_adjustment_and_harmonisation_as_they_are() -> None:
    rng = np.random.default_rng(4)
    label_S, site_S = np.arange(60) % 2, np.arange(60) % 3
    table_SF = np.concatenate([rng.normal(size=(60, 5)), rng.normal(60, 9, (60, 1)), site_S[:, None]], axis=1)
    train, target = Features.plain(table_SF[:40]), Target.of_classes(label_S[:40])
    spoilt_SF = table_SF[40:].copy()
    spoilt_SF[0, :5] *= -50
    for fit in (partial(fit_harmonised, covariates=1), partial(fit_residual, covariates=2)):
        tests = (Features.plain(table_SF[40:]), Features.plain(spoilt_SF))
        before, after = (fit(TrainingPart(train, target, np.arange(40)), test).test_SK for test in tests)
        np.testing.assert_array_equal(before[1:], after[1:])
        assert not np.allclose(before[0], after[0])


def test_confounders_of_an_embedding_that_reads_the_site() -> None:
    rng = np.random.default_rng(5)
    label_S, site_S = np.arange(PEOPLE) % 2, np.arange(PEOPLE) // 2 % 4
    feature_SF = rng.normal(size=(PEOPLE, 6)) + 1.2 * label_S[:, None] + 2.0 * np.eye(4, 6)[site_S]
    task = task_of(
        dx=label_S.tolist(),
        site=[f"c{s}" for s in site_S],
        age=rng.normal(60, 9, PEOPLE).tolist(),
        sex=["M", "M", "F", "F"] * 24,
    )
    splits = cross_validation(task.target, task.group_S, 3, seed=0)
    found = confounders(task, Features.plain(feature_SF), splits, seed=0)
    assert found["not_done"] == {}
    assert found["site_from_embedding"]["auroc"] > 0.85
    assert found["unseen_sites"]["sites"] == 4
    for key in ("without_age_and_sex", "harmonised", "unseen_sites"):
        low, high = found[key]["interval"]
        assert 0.5 < low < found[key]["auroc"] < high


def test_what_cannot_be_asked_is_named() -> None:
    task = task_of(dx=[0, 1] * 20, site=["one"] * 40)
    splits = cross_validation(task.target, task.group_S, 3, seed=0)
    features = Features.plain(np.random.default_rng(6).normal(size=(40, 3)))
    found = confounders(task, features, splits, seed=0)
    assert found["not_done"]["without_age_and_sex"] == "no column 'age', no column 'sex'"
    assert found["not_done"]["unseen_sites"] == "column site holds one site"
    half = task_of(dx=[0, 1] * 20, age=[None, 60.0] * 20, site=["a"] * 38 + ["b"] * 2)
    assert covariate_report(half) == {
        "age": "'age' is missing for 20 of 40 units", "sex": "no column 'sex'", "scanner": "no column 'scanner'",
    }  # fmt: skip
    assert "fewer than two sites" in confounders(half, features, splits, seed=0)["not_done"]["site_from_embedding"]


def test_the_label_is_no_covariate_of_itself() -> None:
    """To take the sex out of the features would take away what is asked for, and within one sex there is nothing to tell."""
    manifest = {"key": [f"k{i}" for i in range(40)], "subject": [f"s{i}" for i in range(40)], "contrast": ["T1"] * 40}
    columns = {"sex": ["F", "M"] * 20, "age": np.linspace(20, 80, 40).tolist(), "site": ["a"] * 20 + ["b"] * 20}
    by_label = {
        label: resolve_task(label, TaskSpec(label=label, kind=kind, split=SplitSpec(folds=3)), pa.table(manifest | columns))
        for label, kind in {"sex": "classification", "age": "regression", "site": "classification"}.items()
    }
    for label, task in by_label.items():
        assert set(task.covariates) == set(columns) - {label}
        assert covariate_report(task)[label] == f"'{label}' is the label"
    features = Features.plain(np.random.default_rng(6).normal(size=(40, 3)))
    splits = cross_validation(by_label["sex"].target, by_label["sex"].group_S, 3, seed=0)
    assert confounders(by_label["sex"], features, splits, seed=0)["without_age_and_sex"]["columns"] == ["age"]
    found = confounders(
        by_label["site"], features, cross_validation(by_label["site"].target, by_label["site"].group_S, 3, seed=0), seed=0
    )
    assert found["not_done"]["unseen_sites"] == "'site' is the label"


def test_people_who_visited_two_sites_join_these() -> None:
    joined = _joined(np.array([0, 0, 1, 1, 2]), np.array([0, 1, 1, 2, 3]))
    assert len({joined[0], joined[1], joined[2], joined[3]}) == 1
    assert joined[4] != joined[0]


def test_subgroups_have_intervals_and_small_ones_none() -> None:
    rng = np.random.default_rng(7)
    label_S = np.arange(80) % 2
    age = [50.0 + i % 40 for i in range(76)] + [10.0] * 3 + [None]
    task = task_of(dx=label_S.tolist(), sex=["M"] * 40 + ["F"] * 40, age=age)
    score_SK = rng.dirichlet([1, 1], 80)
    score_SK[:40] = np.eye(2)[label_S[:40]]
    scores = Scores(task.target, score_SK, label_S, label_S, score_SK)
    found = {(line["column"], line["value"]): line for line in subgroups(task, [scores], np.arange(80), seed=0)}
    assert found["sex", "M"]["auroc"] == 1.0
    assert found["sex", "F"]["interval"][0] < found["sex", "F"]["auroc"] < 0.8
    assert found["age", "0–17"] == {"column": "age", "value": "0–17", "n": 3}
    assert sum(line["n"] for (column, _), line in found.items() if column == "age") == 79


def leaking(kind: str, features: Features, group_S: Ints, splits: list[Split]) -> object:
    """A pipeline that chooses a feature by test labels, or none, or tunes its threshold on them."""

    def run(target: Target) -> tuple[Ints, Scores]:
        chosen = features
        if kind == "selection":
            areas = [auroc(target.labels, np.stack([-x, x], axis=1))[0] for x in features.mean().T]
            chosen = Features.plain(features.mean()[:, [int(np.argmax(np.abs(np.array(areas) - 0.5)))]])
        tested_T, scores = out_of_fold(chosen, target, group_S, splits, fit_linear, seed=0)
        if kind == "threshold":
            best = float(np.median(scores.score_SK[scores.target.labels == 1, 1]))
            decided = (scores.score_SK[:, 1] >= best).astype(np.int64)
            scores = Scores(scores.target, scores.score_SK, decided, scores.f1_S, scores.calibrated_SK)
        return tested_T, scores

    return run


def test_selection_on_test_labels_is_found() -> None:
    rng = np.random.default_rng(8)
    target, group_S = Target.of_classes(np.arange(60) % 2), np.arange(60)
    features = Features.plain(rng.normal(size=(60, 40)))
    splits = cross_validation(target, group_S, 3, seed=0)[:1]
    audit(leaking("none", features, group_S, splits), target, splits, seed=0)  # type: ignore[arg-type]
    for kind in ("selection", "threshold"):
        with pytest.raises(UserError, match="something was chosen on test data"):
            audit(leaking(kind, features, group_S, splits), target, splits, seed=0)  # type: ignore[arg-type]


def test_a_subject_in_both_parts_is_found_and_would_have_been_worth_it() -> None:
    """Each person has a signature of their own, and labels are random: split by volume the probe seems to see them."""
    rng = np.random.default_rng(9)
    group_S = np.repeat(np.arange(30), 3)
    label_S = rng.permutation(np.arange(30) % 2)[group_S]
    features = Features.plain(rng.normal(size=(30, 200))[group_S] + 0.1 * rng.normal(size=(90, 200)))
    target = Target.of_classes(label_S)
    leaky = cross_validation(target, np.arange(90), 3, seed=0)
    _, scores = out_of_fold(features, target, group_S, leaky, fit_linear, seed=0)
    assert measure("auroc", scores)[0] > 0.85
    with pytest.raises(UserError, match="groups are in both train and test"):
        require_disjoint(leaky, group_S, [str(i) for i in range(90)])


def test_labels_are_permuted_by_group_where_a_group_shares_one() -> None:
    group_S = np.repeat(np.arange(20), 3)
    shared = permute(Target.of_classes(np.repeat(np.arange(20) % 2, 3)), group_S, seed=0, index=0)
    assert all(len(set(shared.labels[group_S == g])) == 1 for g in range(20))
    mixed = Target.of_classes(np.arange(60) % 3)
    free = permute(mixed, group_S, seed=0, index=0)
    assert sorted(free.labels) == sorted(mixed.labels)
    assert not np.array_equal(free.labels, mixed.labels)
    assert not np.array_equal(free.labels, permute(mixed, group_S, seed=0, index=1).labels)


def test_permutations_that_cannot_be_split_are_left_out_of_the_null() -> None:
    task = task_of(dx=[0, 1] * 20)
    method = Method((Features.plain(np.random.default_rng(11).normal(size=(40, 3))),), fit_linear)
    asked = []

    def splitter(target: Target, seed: int) -> list[Split]:
        asked.append(target)
        if target.labels[0] == 1:
            raise UserError("a class lies in one fold")
        return cross_validation(target, task.group_S, 3, seed=seed)

    values = null_distribution(task, method, splitter, permutations=8, seed=0)
    assert len(asked) == 8
    assert len(values) == sum(target.labels[0] == 0 for target in asked) > 0
    assert 0.2 < np.mean(values) < 0.8


def test_the_curve_goes_from_8_to_64_units_of_each_class_and_larger_sets_hold_the_smaller() -> None:
    task = task_of(dx=[0, 1] * 110)
    seen: list[set[float]] = []

    def fit(part: TrainingPart, test: Features) -> Fitted:
        seen.append(set(part.features.mean()[:, 0]))
        counts = np.bincount(part.target.labels)
        assert counts[0] == counts[1] == len(part) // 2
        return Fitted(np.full((len(test), 2), 0.5), np.zeros((0, 2)), np.zeros(0, dtype=np.int64))

    methods = {"x": Method((Features.plain(np.arange(220.0)[:, None]),), fit)}
    splits = partial(cross_validation, task.target, task.group_S, 3)
    curve = learning_curve(task, methods, lambda s: splits(seed=s), seed=0, draws=1)
    assert [record["per_class"] for record in curve] == [8, 16, 32, 64]
    for smaller, larger in zip(seen[:9], seen[3:], strict=True):  # three folds of each size
        assert smaller < larger


def test_more_labels_teach_more_and_sizes_that_cannot_be_filled_are_left_out() -> None:
    rng = np.random.default_rng(10)
    label_S = np.arange(60) % 2
    features = Features.plain(rng.normal(size=(60, 10)) + 0.5 * label_S[:, None])
    task = task_of(dx=label_S.tolist())
    splits = partial(cross_validation, task.target, task.group_S, 3)
    curve = learning_curve(task, {"x": Method((features,), fit_linear)}, lambda s: splits(seed=s), seed=0, draws=4)
    assert [record["per_class"] for record in curve] == [8, 16]
    assert curve[0]["x"]["value"] < curve[1]["x"]["value"] + 0.02
    assert curve[0]["x"]["interval"][0] <= curve[0]["x"]["value"] <= curve[0]["x"]["interval"][1]


def test_numbers_of_texts_and_gaps() -> None:
    assert numeric(["F", "M", None, "F"]).tolist() == pytest.approx([0, 1, 1 / 3, 0])
    assert numeric([60.0, None, 70.0]).tolist() == [60, 65, 70]
