"""AUROC against scikit-learn; the cluster bootstrap against cases whose answer is known.

Axes: S samples, K classes, R resamples.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from sklearn.metrics import roc_curve as sklearn_roc_curve

from mri_fm.evaluate.statistics import auroc, bootstrap, interval, roc_curve


@given(st.integers(0, 10_000), st.integers(2, 5), st.booleans())
@settings(max_examples=40, deadline=None)
def test_macro_auroc_equals_scikit_learn(seed: int, classes: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    label_S = rng.permutation(np.arange(40) % classes)
    score_SK = rng.dirichlet(np.ones(classes), 40)
    if ties:
        score_SK = np.full((40, classes), 0.25)
        score_SK[rng.random(40) < 0.5] = np.eye(classes)[0] * 0.5 + 0.5 / classes
        score_SK /= score_SK.sum(axis=1, keepdims=True)
    expected = roc_auc_score(label_S, score_SK[:, 1] if classes == 2 else score_SK, multi_class="ovr", average="macro")
    assert auroc(label_S, score_SK)[0] == pytest.approx(expected, abs=1e-12)


def test_weights_count_samples_as_often_as_copies_would() -> None:
    rng = np.random.default_rng(0)
    label_S, score_SK, weight_S = np.arange(30) % 3, rng.dirichlet(np.ones(3), 30), rng.integers(0, 4, 30)
    copies = np.repeat(np.arange(30), weight_S)
    weighted = auroc(label_S, score_SK, weight_S[None].astype(float))[0]
    assert weighted == pytest.approx(auroc(label_S[copies], score_SK[copies])[0], abs=1e-12)


def test_a_resample_without_a_class_has_no_auroc_and_stays_out_of_the_interval() -> None:
    label_S, score_SK = np.array([0, 0, 1]), np.eye(2)[[0, 0, 1]]
    weights = np.array([[1.0, 1.0, 1.0], [2.0, 1.0, 0.0]])
    values = auroc(label_S, score_SK, weights)
    assert values[0] == 1.0
    assert np.isnan(values[1])
    assert interval(values) == [1.0, 1.0]


def test_roc_curve_equals_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    positive_S, score_S = rng.random(50) < 0.4, rng.integers(0, 9, 50) / 9
    false, true = roc_curve(positive_S, score_S)
    expected_false, expected_true, _ = sklearn_roc_curve(positive_S, score_S, drop_intermediate=False)
    np.testing.assert_allclose(false, expected_false)
    np.testing.assert_allclose(true, expected_true)


def test_interval_covers_the_truth_at_its_nominal_rate_when_volumes_of_a_unit_agree() -> None:
    """Binormal scores, d' = 1, so AUROC = Φ(1/√2) = 0.760; four volumes of a unit share one score up to a little noise."""
    rng = np.random.default_rng(2)
    covered, naive = [], []
    for seed in range(120):
        label_U = np.arange(40) % 2
        label_S, unit_S = np.repeat(label_U, 4), np.repeat(np.arange(40), 4)
        score_S = np.repeat(rng.normal(label_U, 1), 4) + rng.normal(0, 1e-3, 160)
        scores = {"x": np.stack([-score_S, score_S], axis=1)}
        for units, hits in ((unit_S, covered), (np.arange(160), naive)):
            low, high = interval(bootstrap(label_S, scores, units, seed=seed, resamples=200)["x"])
            hits.append(low <= 0.7602 <= high)
    assert np.mean(covered) >= 0.87
    assert np.mean(naive) <= 0.75


def test_methods_share_their_resamples_and_the_seed_decides_them() -> None:
    rng = np.random.default_rng(3)
    label_S, unit_S, score_SK = np.arange(20) % 2, np.arange(20), rng.dirichlet([1, 1], 20)
    first = bootstrap(label_S, {"a": score_SK, "b": score_SK}, unit_S, seed=0, resamples=50)
    again = bootstrap(label_S, {"a": score_SK}, unit_S, seed=0, resamples=50)
    other = bootstrap(label_S, {"a": score_SK}, unit_S, seed=1, resamples=50)
    np.testing.assert_array_equal(first["a"], first["b"])
    np.testing.assert_array_equal(first["a"], again["a"])
    assert not np.array_equal(first["a"], other["a"], equal_nan=True)
