"""AUROC and its bootstrap interval when volumes of one unit (a person, an anatomy) belong together.

Axes: S samples (volumes), K classes, R bootstrap resamples, G groups of tied scores, U units.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from mri_fm.evaluate.draws import Draw, drawer

Floats = NDArray[np.float64]
RESAMPLES = 2000
LEVEL = 0.95


def auroc(label_S: NDArray[np.int64], score_SK: Floats, weight_RS: Floats | None = None) -> Floats:
    """Area under the ROC curve, one against the rest, unweighted mean over classes (Hand & Till 2001 call it macro).

    Args:
        label_S: classes 0…K-1.
        score_SK: larger means likelier. Two classes: the last column alone decides.
        weight_RS: how often each sample counts, one row per resample; default: once each.

    Returns:
        float64 (R,), or (1,) without weights; NaN where a class is absent.
    """
    weight_RS = np.ones((1, len(label_S))) if weight_RS is None else weight_RS
    classes = score_SK.shape[1]
    wanted = [1] if classes == 2 else range(classes)
    return np.mean([_one_against_rest(label_S == k, score_SK[:, k], weight_RS) for k in wanted], axis=0)


def _one_against_rest(positive_S: NDArray[np.bool_], score_S: Floats, weight_RS: Floats) -> Floats:
    """Weighted Mann-Whitney U over the number of pairs; a tie counts half."""
    order = np.argsort(score_S, kind="stable")
    weight_RS, positive_S, score_S = weight_RS[:, order], positive_S[order], score_S[order]
    starts = np.flatnonzero(np.diff(score_S, prepend=-np.inf))
    positive_RG = np.add.reduceat(weight_RS * positive_S, starts, axis=1)
    negative_RG = np.add.reduceat(weight_RS * ~positive_S, starts, axis=1)
    below_RG = np.cumsum(negative_RG, axis=1) - negative_RG
    wins_R = (positive_RG * (below_RG + negative_RG / 2)).sum(axis=1)
    pairs_R = positive_RG.sum(axis=1) * negative_RG.sum(axis=1)
    return np.divide(wins_R, pairs_R, out=np.full_like(wins_R, np.nan), where=pairs_R > 0)


def roc_curve(positive_S: NDArray[np.bool_], score_S: Floats) -> tuple[Floats, Floats]:
    """False and true positive rates at every distinct score, from (0, 0) to (1, 1)."""
    order = np.argsort(-score_S, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(score_S[order])), len(order) - 1)
    true_G = np.cumsum(positive_S[order])[ends] / positive_S.sum()
    false_G = np.cumsum(~positive_S[order])[ends] / (~positive_S).sum()
    return np.insert(false_G, 0, 0.0), np.insert(true_G, 0, 0.0)


def bootstrap(
    label_S: NDArray[np.int64],
    scores: Mapping[str, Floats],
    unit_S: NDArray[np.int64],
    *,
    seed: int,
    resamples: int = RESAMPLES,
) -> dict[str, Floats]:
    """AUROC of every method on the same resamples of whole units (cluster bootstrap), so differences are paired.

    Args:
        label_S: classes 0…K-1.
        scores: a (S, K) array per method, rows in the order of `label_S`.
        unit_S: unit numbers 0…U-1; all volumes of a drawn unit come along.
        seed: keys the draws.
        resamples: number of resamples R.

    Returns:
        float64 (R,) per method; NaN where the resample lacks a class.
    """
    units = int(unit_S.max()) + 1
    rng = drawer(seed, Draw.BOOTSTRAP)
    weight_RS = rng.multinomial(units, np.full(units, 1 / units), size=resamples)[:, unit_S].astype(np.float64)
    return {name: auroc(label_S, score_SK, weight_RS) for name, score_SK in scores.items()}


def interval(values_R: Floats, level: float = LEVEL) -> list[float]:
    """Percentile interval [low, high] of bootstrap values, those without a value left out (Efron & Tibshirani 1993, ch. 13)."""
    tail = (1 - level) / 2
    low, high = np.nanquantile(values_R, [tail, 1 - tail])
    return [float(low), float(high)]
