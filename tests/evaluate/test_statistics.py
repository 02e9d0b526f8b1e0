"""AUROC and the other metrics against scikit-learn and lifelines; intervals against cases whose answer is known.

Axes: S units, K classes, R resamples.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lifelines.utils import concordance_index
from scipy import stats
from sklearn import metrics as sklearn_metrics
from sklearn.metrics import roc_auc_score
from sklearn.metrics import roc_curve as sklearn_roc_curve

from mri_fm.evaluate import metrics
from mri_fm.evaluate.calibration import best_threshold, reliability, soften, temperature
from mri_fm.evaluate.compare import out_of_fold
from mri_fm.evaluate.features import Features
from mri_fm.evaluate.linear import fit_linear
from mri_fm.evaluate.metrics import Scores, auroc, measure, roc_curve
from mri_fm.evaluate.splits import cross_validation
from mri_fm.evaluate.statistics import Resamples, bootstrap, delong, holm, interval, permutation_p
from mri_fm.evaluate.target import Target

TRUE_AUROC = float(stats.norm.cdf(1 / np.sqrt(2)))  # of binormal scores whose means differ by one standard deviation


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


def two_columns(score_S: np.ndarray) -> np.ndarray:
    return np.stack([-score_S, score_S], axis=1)


def test_interval_covers_the_truth_at_its_nominal_rate_when_volumes_of_a_group_agree() -> None:
    """Four volumes of a group share one binormal score up to a little noise."""
    rng = np.random.default_rng(2)
    covered, naive = [], []
    for seed in range(120):
        label_U = np.arange(40) % 2
        label_S, group_S = np.repeat(label_U, 4), np.repeat(np.arange(40), 4)
        score_SK = two_columns(np.repeat(rng.normal(label_U, 1), 4) + rng.normal(0, 1e-3, 160))
        for groups, hits in ((group_S, covered), (np.arange(160), naive)):
            low, high = interval(bootstrap({"x": [partial(auroc, label_S, score_SK)]}, groups, seed=seed, resamples=200)["x"])
            hits.append(low <= TRUE_AUROC <= high)
    assert np.mean(covered) >= 0.87
    assert np.mean(naive) <= 0.75


def test_intervals_over_refits_cover_what_another_refit_would_give() -> None:
    """Each refit's scores are blurred by an error of their own, which units of one refit share in a direction of the features.

    What is covered is the mean AUROC over refits and people; intervals that hold one refit fixed miss it more often.
    """
    rng = np.random.default_rng(4)
    label_S, group_S = np.arange(60) % 2, np.arange(60)
    tilt = 1.0
    truth = float(np.mean([stats.norm.cdf(1 / np.sqrt(2 * (1 + (tilt * t) ** 2))) for t in rng.normal(size=20_000)]))
    several, single = [], []
    for seed in range(120):
        signal_S, other_S = rng.normal(label_S, 1), rng.normal(size=60)
        refits = [partial(auroc, label_S, two_columns(signal_S + tilt * t * other_S)) for t in rng.normal(size=5)]
        drawn = Resamples.draw(group_S, seed=seed, count=300)
        for chosen, hits in ((refits, several), (refits[:1], single)):
            low, high = interval(drawn.values(chosen))
            hits.append(low <= truth <= high)
    assert np.mean(several) >= 0.92
    assert np.mean(single) < np.mean(several)


def test_methods_share_their_resamples_and_the_seed_decides_them() -> None:
    rng = np.random.default_rng(3)
    label_S, group_S, score_SK = np.arange(20) % 2, np.arange(20), rng.dirichlet([1, 1], 20)
    refits = [partial(auroc, label_S, score_SK)]
    first = bootstrap({"a": refits, "b": refits}, group_S, seed=0, resamples=50)
    again = bootstrap({"a": refits}, group_S, seed=0, resamples=50)
    other = bootstrap({"a": refits}, group_S, seed=1, resamples=50)
    np.testing.assert_array_equal(first["a"], first["b"])
    np.testing.assert_array_equal(first["a"], again["a"])
    assert not np.array_equal(first["a"], other["a"], equal_nan=True)


@given(st.integers(0, 10_000), st.integers(2, 4))
@settings(max_examples=30)
def test_metrics_equal_those_of_scikit_learn(seed: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    label_S, decided_S = rng.permutation(np.arange(40) % classes), rng.integers(0, classes, 40)
    score_SK = np.round(rng.dirichlet(np.ones(classes), 40), 1)
    scores = Scores(Target.of_classes(label_S), score_SK, decided_S, decided_S, score_SK)
    binary = classes == 2
    one_hot_SK, column_SK = np.eye(classes)[label_S], score_SK
    if binary:
        one_hot_SK, column_SK = one_hot_SK[:, 1:], score_SK[:, 1:]
    expected = {
        "auprc": sklearn_metrics.average_precision_score(one_hot_SK, column_SK),
        "balanced_accuracy": sklearn_metrics.balanced_accuracy_score(label_S, decided_S),
        "accuracy": sklearn_metrics.accuracy_score(label_S, decided_S),
        "f1": sklearn_metrics.f1_score(label_S, decided_S, average="binary" if binary else "macro", zero_division=0),
    }  # fmt: skip
    for name, value in expected.items():
        assert measure(name, scores)[0] == pytest.approx(value, abs=1e-12)


def test_metrics_of_values_and_times_equal_those_of_the_libraries() -> None:
    rng = np.random.default_rng(0)
    value_S, score_S, event_S = (
        np.round(rng.exponential(3, 50), 1) + 0.1,
        np.round(rng.normal(size=50), 1),
        rng.random(50) < 0.6,
    )
    nothing = np.zeros(50, dtype=np.int64)
    values = Scores(Target(value_S, "regression"), score_S[:, None], nothing, nothing, score_S[:, None])
    assert measure("r2", values)[0] == pytest.approx(sklearn_metrics.r2_score(value_S, score_S))
    assert measure("mae", values)[0] == pytest.approx(sklearn_metrics.mean_absolute_error(value_S, score_S))
    assert measure("pearson", values)[0] == pytest.approx(np.corrcoef(value_S, score_S)[0, 1])
    times = Scores(Target(value_S, "survival", (), event_S), score_S[:, None], nothing, nothing, score_S[:, None])
    assert measure("c_index", times)[0] == pytest.approx(concordance_index(value_S, -score_S, event_S))


@pytest.mark.parametrize("metric", ["auroc", "auprc", "f1", "balanced_accuracy", "ece", "r2", "pearson", "mae", "c_index"])
def test_weights_of_every_metric_count_units_as_copies_would(metric: str) -> None:
    rng = np.random.default_rng(1)
    kind = {"r2": "regression", "pearson": "regression", "mae": "regression", "c_index": "survival"}.get(
        metric, "classification"
    )
    label_S = np.arange(30) % 2
    value_S = label_S.astype(float) if kind == "classification" else np.round(rng.exponential(3, 30), 1) + 0.1
    target = Target(value_S, kind, ("0", "1") if kind == "classification" else (), rng.random(30) < 0.7)
    score_SK = rng.dirichlet([1, 1], 30) if kind == "classification" else rng.normal(size=(30, 1))
    scores = Scores(target, score_SK, rng.integers(0, 2, 30), rng.integers(0, 2, 30), score_SK)
    weight_S = rng.integers(0, 4, 30)
    copies = scores[np.repeat(np.arange(30), weight_S)]
    if metric == "ece":  # whose bins are those of the units, not of their copies
        assert measure(metric, scores)[0] == pytest.approx(measure(metric, scores, np.full((1, 30), 2.0))[0])
        return
    assert measure(metric, scores, weight_S[None].astype(float))[0] == pytest.approx(measure(metric, copies)[0], abs=1e-12)


def test_delong_equals_its_definition_in_float64() -> None:
    """Against the placement values of DeLong et al. 1988, written as sums over pairs."""
    rng = np.random.default_rng(5)
    positive_S = np.arange(50) % 3 == 0
    score_2S = np.round(rng.normal(positive_S, 1, (2, 50)) + rng.normal(size=50), 1)
    found = delong(positive_S, score_2S)
    v10, v01 = [], []
    for score_S in score_2S:
        above = [[float(p > n) + 0.5 * (p == n) for n in score_S[~positive_S]] for p in score_S[positive_S]]
        v10.append(np.mean(above, axis=1))
        v01.append(np.mean(above, axis=0))
    covariance = np.cov(v10) / positive_S.sum() + np.cov(v01) / (~positive_S).sum()
    error = np.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    assert found.standard_error == pytest.approx(error, rel=1e-12)
    assert found.auroc == pytest.approx([roc_auc_score(positive_S, score_S) for score_S in score_2S])
    assert found.p == pytest.approx(2 * stats.norm.sf(abs(found.difference) / error))
    assert delong(positive_S, np.stack([score_2S[0], score_2S[0]])).p == 1.0


def test_delong_holds_its_level_and_needs_the_groups_for_it() -> None:
    """No difference between two methods: p below 0.05 in one of twenty studies, but more often if copies count as people."""
    rng = np.random.default_rng(6)
    plain, grouped, blind = [], [], []
    for _ in range(400):
        label_S = np.arange(60) % 2 == 1
        score_2S = rng.normal(label_S, 1, 60) + rng.normal(size=(2, 60))
        plain.append(delong(label_S, score_2S).p < 0.05)
        copied_S, copies_2S = np.repeat(label_S, 3), np.repeat(score_2S, 3, axis=1)
        grouped.append(delong(copied_S, copies_2S, np.repeat(np.arange(60), 3)).p < 0.05)
        blind.append(delong(copied_S, copies_2S).p < 0.05)
    assert 0.02 <= np.mean(plain) <= 0.085
    assert np.mean(grouped) == pytest.approx(np.mean(plain), abs=0.01)
    assert np.mean(blind) > 0.15


def test_the_interval_of_delong_covers_the_true_difference() -> None:
    rng = np.random.default_rng(7)
    hits = []
    for _ in range(300):
        label_S = np.arange(80) % 2 == 1
        score_2S = np.stack([rng.normal(label_S, 1), rng.normal(size=80)])
        low, high = delong(label_S, score_2S).interval()
        hits.append(low <= TRUE_AUROC - 0.5 <= high)
    assert 0.91 <= np.mean(hits) <= 0.985


def test_permutation_p_counts_the_value_itself_and_is_uniform_without_an_effect() -> None:
    assert permutation_p(0.9, [0.5] * 99) == 0.01
    assert permutation_p(0.1, [0.5] * 99, smaller_is_better=True) == 0.01
    rng = np.random.default_rng(8)
    p = [permutation_p(values[0], values[1:]) for values in rng.normal(size=(500, 20))]
    assert np.mean(np.array(p) <= 0.1) == pytest.approx(0.1, abs=0.04)


def test_holm_adjusts_as_published() -> None:
    """The worked example of Holm (1979): p = 0.01, 0.04, 0.03, 0.005 become 0.03, 0.06, 0.06, 0.02."""
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}) == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}


def test_a_threshold_is_the_best_of_all() -> None:
    rng = np.random.default_rng(9)
    label_S = np.arange(40) % 4 == 0
    probability_S = np.round(rng.random(40) * 0.6 + 0.3 * label_S, 2)
    for metric in ("f1", "balanced_accuracy"):

        def value(threshold: float, metric: str = metric) -> float:
            decided_S = (probability_S >= threshold).astype(np.int64)
            return float(getattr(metrics, metric)(label_S.astype(np.int64), decided_S, np.ones((1, 40)), 2)[0])

        best = best_threshold(label_S.astype(np.int64), probability_S, metric)
        assert value(best) == pytest.approx(max(value(t) for t in np.linspace(0, 1, 401)))


def test_the_temperature_undoes_overconfidence() -> None:
    rng = np.random.default_rng(10)
    probability_S = rng.uniform(0.1, 0.9, 4000)
    label_S = (rng.random(4000) < probability_S).astype(np.int64)
    honest_SK = np.stack([1 - probability_S, probability_S], axis=1)
    boastful_SK = soften(honest_SK, 1 / 3)
    found = temperature(Target.of_classes(label_S), boastful_SK)
    assert found == pytest.approx(3.0, rel=0.1)
    np.testing.assert_allclose(soften(boastful_SK, 3.0), honest_SK, atol=1e-9)
    errors = [metrics.calibration_error(label_S, p_SK, np.ones((1, 4000)))[0] for p_SK in (boastful_SK, honest_SK)]
    assert errors[0] > 0.1 > 0.03 > errors[1]
    bins = reliability(label_S, honest_SK)
    assert sum(b["count"] for b in bins) == 4000
    assert all(abs(b["confidence"] - b["accuracy"]) < 0.08 for b in bins)


@pytest.mark.slow
def test_intervals_of_a_whole_evaluation_cover_what_it_gives_on_average() -> None:
    """Studies of 60 people: probes chosen on inner folds, fitted three times on other folds, resampled by person and refit.

    The truth is the mean over all studies. Intervals that hold one refit fixed and take volumes for people are too short.
    """
    rng = np.random.default_rng(11)
    values, honest, naive = [], [], []
    for study in range(60):
        group_S = np.repeat(np.arange(60), 2)
        label_S = group_S % 2
        person_GF = rng.normal(size=(60, 12)) + 0.9 * np.eye(1, 12) * (np.arange(60) % 2)[:, None]
        features = Features.plain(person_GF[group_S] + 0.3 * rng.normal(size=(120, 12)))
        target = Target.of_classes(label_S)
        refits = []
        for refit in range(3):
            splits = cross_validation(target, group_S, 4, seed=100 * study + refit)
            refits.append(out_of_fold(features, target, group_S, splits, fit_linear, seed=refit)[1])
        methods = [partial(measure, "auroc", scores) for scores in refits]
        values.append(np.mean([method(None)[0] for method in methods]))
        honest.append(interval(Resamples.draw(group_S, seed=study, count=300).values(methods)))
        naive.append(interval(Resamples.draw(np.arange(120), seed=study, count=300).values(methods[:1])))
    covered, short = (np.mean([low <= np.mean(values) <= high for low, high in found]) for found in (honest, naive))
    assert covered >= 0.86
    assert short < covered
