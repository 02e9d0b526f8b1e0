"""Folds are disjoint by unit, none is empty, and classes spread evenly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mri_fm.errors import UserError
from mri_fm.evaluate.splits import grouped_folds, missing_class

SAMPLES = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 12)), min_size=2, max_size=60)


@given(SAMPLES, st.integers(2, 6), st.integers(0, 1000))
@settings(max_examples=150, deadline=None)
def test_no_unit_crosses_folds_and_no_fold_is_empty(samples: list[tuple[int, int]], folds: int, seed: int) -> None:
    label_S, unit_S = (np.array(column) for column in zip(*samples, strict=True))
    if len(set(unit_S)) < folds:
        with pytest.raises(UserError, match="do not fill"):
            grouped_folds(label_S, unit_S, folds, seed=seed)
        return
    fold_S = grouped_folds(label_S, unit_S, folds, seed=seed)
    assert set(fold_S) == set(range(folds))
    for unit in set(unit_S):
        assert len(set(fold_S[unit_S == unit])) == 1


@given(st.integers(0, 1000), st.integers(2, 5))
@settings(max_examples=50, deadline=None)
def test_single_volume_units_are_stratified_to_one(seed: int, folds: int) -> None:
    label_S = np.random.default_rng(seed).permutation([0] * 30 + [1] * 11 + [2] * 6)
    fold_S = grouped_folds(label_S, np.arange(47), folds, seed=seed)
    for k in range(3):
        counts = np.bincount(fold_S[label_S == k], minlength=folds)
        assert counts.max() - counts.min() <= 1


def test_seed_and_index_decide_the_folds() -> None:
    label_S, unit_S = np.arange(40) % 2, np.arange(40)
    first = grouped_folds(label_S, unit_S, 4, seed=0)
    np.testing.assert_array_equal(first, grouped_folds(label_S, unit_S, 4, seed=0))
    assert not np.array_equal(first, grouped_folds(label_S, unit_S, 4, seed=1))
    assert not np.array_equal(first, grouped_folds(label_S, unit_S, 4, seed=0, index=1))


def test_missing_class_names_what_a_training_part_lacks() -> None:
    fold_S = np.array([0, 0, 1, 1])
    assert missing_class(np.array([0, 1, 0, 1]), fold_S) is None
    assert missing_class(np.array([0, 2, 0, 1]), fold_S) in (1, 2)
