"""Thresholds and temperatures, chosen on validation units alone.

Axes: S units, K classes, B bins.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize_scalar

from mri_fm.evaluate.metrics import balanced_accuracy, f1
from mri_fm.evaluate.target import Floats, Ints, Target

BINS = 10


def best_threshold(label_S: Ints, probability_S: Floats, metric: str) -> float:
    """The probability of class 1 from which on it is decided, best for `balanced_accuracy` or `f1`.

    Half-way between two neighbouring scores; of equally good ones that nearest to 0.5. 0.5 where a class is absent.
    """
    if len(np.unique(label_S)) < 2:
        return 0.5
    distinct = np.unique(probability_S)
    candidates = np.concatenate([(distinct[1:] + distinct[:-1]) / 2, [0.5]])
    score, one_1S = balanced_accuracy if metric == "balanced_accuracy" else f1, np.ones((1, len(label_S)))
    values = [float(score(label_S, (probability_S >= t).astype(np.int64), one_1S, 2)[0]) for t in candidates]
    return float(min(zip(values, candidates, strict=True), key=lambda pair: (-pair[0], abs(pair[1] - 0.5)))[1])


def decide(held: Target, held_SK: Floats, score_SK: Floats, metric: str) -> Ints:
    """The class of each unit: at the threshold that is best on the held units; with more than two classes the likeliest."""
    if score_SK.shape[1] != 2:
        return score_SK.argmax(axis=1)
    threshold = best_threshold(held.labels, held_SK[:, 1], metric) if len(held) else 0.5
    return (score_SK[:, 1] >= threshold).astype(np.int64)


def temperature(held: Target, held_SK: Floats) -> float:
    """The temperature of least log loss on the held units (Guo et al., ICML 2017, §4), between 0.05 and 20; 1 without any."""
    if not len(held):
        return 1.0
    rows = np.arange(len(held))

    def loss(log_temperature: float) -> float:
        return float(-np.log(soften(held_SK, np.exp(log_temperature))[rows, held.labels] + 1e-12).mean())

    return float(np.exp(minimize_scalar(loss, bounds=(np.log(0.05), np.log(20.0)), method="bounded").x))


def soften(probability_SK: Floats, temperature: float) -> Floats:
    """Probabilities whose logits are divided by the temperature."""
    log_SK = np.log(np.clip(probability_SK, 1e-12, 1)) / temperature
    power_SK = np.exp(log_SK - log_SK.max(axis=1, keepdims=True))
    return power_SK / power_SK.sum(axis=1, keepdims=True)


def reliability(label_S: Ints, probability_SK: Floats, bins: int = BINS) -> list[dict[str, float]]:
    """Mean confidence and share decided rightly in bins of as many units each, for the reliability plot."""
    confidence_S, right_S = probability_SK.max(axis=1), probability_SK.argmax(axis=1) == label_S
    parts = np.array_split(np.argsort(confidence_S, kind="stable"), min(bins, len(label_S)))
    return [
        {"confidence": float(confidence_S[part].mean()), "accuracy": float(right_S[part].mean()), "count": len(part)}
        for part in parts
    ]
