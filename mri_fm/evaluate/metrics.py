"""What scores are worth: each metric for many weightings of the units at once, so that a bootstrap is one call.

Axes: S units, K classes, R weightings (bootstrap resamples), G groups of tied scores.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mri_fm.evaluate.target import Bools, Floats, Ints, Target


@dataclass(frozen=True, eq=False)
class Scores:
    """Out-of-fold scores of the tested units by one refit of a method.

    Attributes:
        target: of these units.
        score_SK: class probabilities, values or log hazards.
        balanced_S, f1_S: classes decided at the threshold that is best for balanced accuracy, or F1, on validation units.
        calibrated_SK: class probabilities at the temperature that validation units ask for.
    """

    target: Target
    score_SK: Floats
    balanced_S: Ints
    f1_S: Ints
    calibrated_SK: Floats

    def __getitem__(self, rows: Ints | Bools) -> Scores:
        """Those of some units."""
        return Scores(self.target[rows], *(getattr(self, n)[rows] for n in ("score_SK", "balanced_S", "f1_S", "calibrated_SK")))


def auroc(label_S: Ints, score_SK: Floats, weight_RS: Floats | None = None) -> Floats:
    """Area under the ROC curve, one against the rest, unweighted mean over classes (Hand & Till 2001 call it macro).

    Args:
        label_S: classes 0…K-1.
        score_SK: larger means likelier. Two classes: the last column alone decides.
        weight_RS: how often each unit counts, one row per resample; default: once each.

    Returns:
        float64 (R,), or (1,) without weights; NaN where a class is absent.
    """
    return _over_classes(_mann_whitney, label_S, score_SK, weight_RS)


def auprc(label_S: Ints, score_SK: Floats, weight_RS: Floats | None = None) -> Floats:
    """Average precision (area under the precision-recall curve, as steps), over classes as `auroc`."""
    return _over_classes(_average_precision, label_S, score_SK, weight_RS)


Binary = Callable[[Bools, Floats, Floats], Floats]


def _over_classes(binary: Binary, label_S: Ints, score_SK: Floats, weight_RS: Floats | None) -> Floats:
    weight_RS = _ones(label_S) if weight_RS is None else weight_RS
    classes = score_SK.shape[1]
    wanted = [1] if classes == 2 else range(classes)
    return np.mean([binary(label_S == k, score_SK[:, k], weight_RS) for k in wanted], axis=0)


def _mann_whitney(positive_S: Bools, score_S: Floats, weight_RS: Floats) -> Floats:
    """Weighted Mann-Whitney U over the number of pairs; a tie counts half."""
    positive_RG, negative_RG = _tied(positive_S, score_S, weight_RS)
    below_RG = np.cumsum(negative_RG, axis=1) - negative_RG
    wins_R = (positive_RG * (below_RG + negative_RG / 2)).sum(axis=1)
    return _ratio(wins_R, positive_RG.sum(axis=1) * negative_RG.sum(axis=1))


def _average_precision(positive_S: Bools, score_S: Floats, weight_RS: Floats) -> Floats:
    """Σ precision at each distinct score × recall gained there."""
    positive_RG, negative_RG = _tied(positive_S, -score_S, weight_RS)
    hit_RG, shown_RG = np.cumsum(positive_RG, axis=1), np.cumsum(positive_RG + negative_RG, axis=1)
    precision_RG = np.divide(hit_RG, shown_RG, out=np.zeros_like(hit_RG), where=shown_RG > 0)
    return _ratio((precision_RG * positive_RG).sum(axis=1), positive_RG.sum(axis=1))


def _tied(positive_S: Bools, score_S: Floats, weight_RS: Floats) -> tuple[Floats, Floats]:
    """Weights of positives and negatives at each distinct score, ascending."""
    order = np.argsort(score_S, kind="stable")
    weight_RS, positive_S, score_S = weight_RS[:, order], positive_S[order], score_S[order]
    starts = np.flatnonzero(np.diff(score_S, prepend=-np.inf))
    positive_RG, negative_RG = (np.add.reduceat(weight_RS * side_S, starts, axis=1) for side_S in (positive_S, ~positive_S))
    return positive_RG, negative_RG


def roc_curve(positive_S: NDArray[np.bool_], score_S: Floats) -> tuple[Floats, Floats]:
    """False and true positive rates at every distinct score, from (0, 0) to (1, 1)."""
    order = np.argsort(-score_S, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(score_S[order])), len(order) - 1)
    true_G = np.cumsum(positive_S[order])[ends] / positive_S.sum()
    false_G = np.cumsum(~positive_S[order])[ends] / (~positive_S).sum()
    return np.insert(false_G, 0, 0.0), np.insert(true_G, 0, 0.0)


def accuracy(label_S: Ints, decided_S: Ints, weight_RS: Floats) -> Floats:
    """Share of units decided rightly."""
    return _ratio(weight_RS @ (label_S == decided_S).astype(np.float64), weight_RS.sum(axis=1))


def balanced_accuracy(label_S: Ints, decided_S: Ints, weight_RS: Floats, classes: int) -> Floats:
    """Mean over classes of the share that is decided rightly."""
    return np.mean([accuracy(label_S, decided_S, weight_RS * (label_S == k)) for k in range(classes)], axis=0)


def f1(label_S: Ints, decided_S: Ints, weight_RS: Floats, classes: int) -> Floats:
    """F1 of class 1, with more than two classes the mean of all classes'; 0 where a class is never decided."""
    return np.mean([_f1(label_S == k, decided_S == k, weight_RS) for k in ([1] if classes == 2 else range(classes))], axis=0)


def _f1(positive_S: Bools, decided_S: Bools, weight_RS: Floats) -> Floats:
    both_R = weight_RS @ (positive_S & decided_S).astype(np.float64)
    return _ratio(2 * both_R, weight_RS @ (positive_S.astype(np.float64) + decided_S))


def r2(value_S: Floats, score_S: Floats, weight_RS: Floats) -> Floats:
    """1 − squared error over the variance of the weighted units."""
    total_R = weight_RS.sum(axis=1)
    mean_R = weight_RS @ value_S / total_R
    variance_R = weight_RS @ value_S**2 / total_R - mean_R**2
    return 1 - _ratio(weight_RS @ (value_S - score_S) ** 2 / total_R, variance_R)


def pearson(value_S: Floats, score_S: Floats, weight_RS: Floats) -> Floats:
    """Pearson's correlation."""
    total_R = weight_RS.sum(axis=1)
    x_S, y_S = value_S - value_S.mean(), score_S - score_S.mean()
    x_R, y_R = weight_RS @ x_S / total_R, weight_RS @ y_S / total_R
    covariance_R = weight_RS @ (x_S * y_S) / total_R - x_R * y_R
    spread_R = (weight_RS @ x_S**2 / total_R - x_R**2) * (weight_RS @ y_S**2 / total_R - y_R**2)
    return _ratio(covariance_R, np.sqrt(np.maximum(spread_R, 0)))


def c_index(target: Target, hazard_S: Floats, weight_RS: Floats) -> Floats:
    """Harrell's C (1982): pairs of which the earlier time is an event, and the share in which it has the larger hazard."""
    time_S, event_S = target.value_S, target.event_S
    earlier_SS = (time_S[:, None] < time_S[None, :]) | ((time_S[:, None] == time_S[None, :]) & ~event_S[None, :])
    pair_SS = (earlier_SS & event_S[:, None]).astype(np.float64)
    win_SS = pair_SS * ((hazard_S[:, None] > hazard_S[None, :]) + (hazard_S[:, None] == hazard_S[None, :]) / 2)
    return _ratio(((weight_RS @ win_SS) * weight_RS).sum(axis=1), ((weight_RS @ pair_SS) * weight_RS).sum(axis=1))


def calibration_error(label_S: Ints, probability_SK: Floats, weight_RS: Floats, bins: int = 10) -> Floats:
    """Expected calibration error (Guo et al., ICML 2017) of the decided class, over `bins` of as many units each."""
    confidence_S, right_S = probability_SK.max(axis=1), (probability_SK.argmax(axis=1) == label_S).astype(np.float64)
    error_R = np.zeros(len(weight_RS))
    for rows in np.array_split(np.argsort(confidence_S, kind="stable"), min(bins, len(label_S))):
        error_R += np.abs(weight_RS[:, rows] @ (right_S - confidence_S)[rows])
    return _ratio(error_R, weight_RS.sum(axis=1))


def measure(metric: str, scores: Scores, weight_RS: Floats | None = None) -> Floats:
    """A metric by its name, (R,); NaN where it is not defined."""
    target = scores.target
    weight_RS = _ones(target.value_S) if weight_RS is None else weight_RS
    label_S, value_S, score_S, classes = target.labels, target.value_S, scores.score_SK[:, 0], target.outputs
    table: dict[str, Callable[[], Floats]] = {
        "auroc": lambda: auroc(label_S, scores.score_SK, weight_RS),
        "auprc": lambda: auprc(label_S, scores.score_SK, weight_RS),
        "accuracy": lambda: accuracy(label_S, scores.balanced_S, weight_RS),
        "balanced_accuracy": lambda: balanced_accuracy(label_S, scores.balanced_S, weight_RS, classes),
        "f1": lambda: f1(label_S, scores.f1_S, weight_RS, classes),
        "ece": lambda: calibration_error(label_S, scores.score_SK, weight_RS),
        "ece_calibrated": lambda: calibration_error(label_S, scores.calibrated_SK, weight_RS),
        "r2": lambda: r2(value_S, score_S, weight_RS),
        "mae": lambda: _ratio(weight_RS @ np.abs(value_S - score_S), weight_RS.sum(axis=1)),
        "pearson": lambda: pearson(value_S, score_S, weight_RS),
        "c_index": lambda: c_index(target, score_S, weight_RS),
    }
    return table[metric]()


SMALLER_IS_BETTER = ("mae", "ece", "ece_calibrated")
CHANCE = {"auroc": 0.5, "balanced_accuracy": 0.5, "c_index": 0.5, "r2": 0.0, "pearson": 0.0}
NAMES = {
    "auroc": "AUROC", "auprc": "AUPRC", "accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "f1": "F1",
    "ece": "ECE", "ece_calibrated": "ECE, temperature", "r2": "R²", "mae": "mean absolute error", "pearson": "Pearson's r",
    "c_index": "C-index",
}  # fmt: skip


def _ones(value_S: NDArray[np.generic]) -> Floats:
    return np.ones((1, len(value_S)))


def _ratio(top_R: Floats, bottom_R: Floats) -> Floats:
    return np.divide(top_R, bottom_R, out=np.full(top_R.shape, np.nan), where=bottom_R > 0)
