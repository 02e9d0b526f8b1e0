"""Folds are disjoint by group, none is empty, and classes spread evenly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mri_fm.errors import UserError
from mri_fm.evaluate.splits import Split, cross_validation, grouped_folds, inner_folds, require_disjoint
from mri_fm.evaluate.target import Target

SAMPLES = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 12)), min_size=2, max_size=60)


@given(SAMPLES, st.integers(2, 6), st.integers(0, 1000))
@settings(max_examples=150, deadline=None)
def test_no_group_crosses_folds_and_no_fold_is_empty(samples: list[tuple[int, int]], folds: int, seed: int) -> None:
    label_S, group_S = (np.array(column) for column in zip(*samples, strict=True))
    if len(set(group_S)) < folds:
        with pytest.raises(UserError, match="do not fill"):
            grouped_folds(label_S, group_S, folds, seed=seed)
        return
    fold_S = grouped_folds(label_S, group_S, folds, seed=seed)
    assert set(fold_S) == set(range(folds))
    for group in set(group_S):
        assert len(set(fold_S[group_S == group])) == 1


@given(st.integers(0, 1000), st.integers(2, 5))
@settings(max_examples=50, deadline=None)
def test_groups_of_one_are_stratified_to_one(seed: int, folds: int) -> None:
    label_S = np.random.default_rng(seed).permutation([0] * 30 + [1] * 11 + [2] * 6)
    fold_S = grouped_folds(label_S, np.arange(47), folds, seed=seed)
    for k in range(3):
        counts = np.bincount(fold_S[label_S == k], minlength=folds)
        assert counts.max() - counts.min() <= 1


def test_seed_and_index_decide_the_folds() -> None:
    label_S, group_S = np.arange(40) % 2, np.arange(40)
    first = grouped_folds(label_S, group_S, 4, seed=0)
    np.testing.assert_array_equal(first, grouped_folds(label_S, group_S, 4, seed=0))
    assert not np.array_equal(first, grouped_folds(label_S, group_S, 4, seed=1))
    assert not np.array_equal(first, grouped_folds(label_S, group_S, 4, seed=0, index=1))


def test_every_unit_is_tested_once_and_never_with_its_group_in_training() -> None:
    group_S = np.arange(30) // 2
    splits = cross_validation(Target.of_classes(np.arange(30) // 2 % 2), group_S, 5, seed=0)
    assert sorted(np.concatenate([split.test for split in splits]).tolist()) == list(range(30))
    require_disjoint(splits, group_S, [str(i) for i in range(30)])


def test_a_class_that_one_fold_holds_alone_is_refused() -> None:
    target = Target.of_classes(np.array([0, 0, 0, 1, 1]), ("well", "ill"))
    with pytest.raises(UserError, match="class 'ill' lies in the test part"):
        cross_validation(target, np.array([0, 1, 2, 3, 3]), 2, seed=0)


def test_a_person_in_two_parts_is_named() -> None:
    splits = [Split(np.array([0, 1]), np.array([2]), np.array([3]))]
    require_disjoint(splits, np.array([0, 1, 2, 3]), list("abcd"))
    with pytest.raises(UserError, match=r"1 groups are in both train and test, for instance that of b"):
        require_disjoint(splits, np.array([0, 1, 2, 1]), list("abcd"))


def test_inner_folds_are_none_where_a_class_would_be_missing() -> None:
    target = Target.of_classes(np.array([0, 0, 1]))
    assert inner_folds(target, np.arange(3), 3, seed=0, index=1) is None
    assert inner_folds(Target.of_classes(np.arange(8) % 2), np.arange(8), 3, seed=0, index=1) is not None


def test_folds_of_values_are_balanced_by_quantile() -> None:
    target = Target(np.random.default_rng(0).normal(size=40), "regression")
    for split in cross_validation(target, np.arange(40), 4, seed=0):
        assert abs(target.value_S[split.test].mean() - target.value_S.mean()) < 0.35
