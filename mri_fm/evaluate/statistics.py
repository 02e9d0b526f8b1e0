"""Intervals and tests: bootstrap over groups and refits, DeLong, permutation, Holm.

Axes: S units, R resamples, G groups, M refits, P positives, N negatives, 2 methods.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from mri_fm.evaluate.draws import Draw, drawer
from mri_fm.evaluate.target import Bools, Floats, Ints

RESAMPLES = 2000
LEVEL = 0.95
Weighted = Callable[[Floats], Floats]
"""A metric of one refit: how often each unit counts, (R, S), to (R,)."""


@dataclass(frozen=True, eq=False)
class Resamples:
    """Draws of whole groups (cluster bootstrap) with a refit each; all methods meet the same, so differences are paired.

    Attributes:
        weight_RS: how often each unit counts.
        refit_R: uniform in [0, 1): which refit counts.
    """

    weight_RS: Floats
    refit_R: Floats

    @classmethod
    def draw(cls, group_S: Ints, *, seed: int, count: int = RESAMPLES) -> Resamples:
        """`count` resamples of as many groups as there are; `group_S` are numbers, equal ones come along together."""
        group_S = np.unique(group_S, return_inverse=True)[1]
        groups = int(group_S.max()) + 1
        rng = drawer(seed, Draw.BOOTSTRAP)
        weight_RG = rng.multinomial(groups, np.full(groups, 1 / groups), size=count)
        return cls(weight_RG[:, group_S].astype(np.float64), rng.random(count))

    def values(self, refits: Sequence[Weighted]) -> Floats:
        """The metric of every resample, (R,), each by the refit drawn for it; NaN where it is not defined.

        With one refit, the fitted models are held fixed. With several, the spread is that of another refit on other people.
        """
        chosen_R = (self.refit_R * len(refits)).astype(np.int64)
        value_R = np.full(len(chosen_R), np.nan)
        for number, refit in enumerate(refits):
            rows = np.flatnonzero(chosen_R == number)
            if len(rows):
                value_R[rows] = refit(self.weight_RS[rows])
        return value_R


def bootstrap(
    methods: Mapping[str, Sequence[Weighted]], group_S: Ints, *, seed: int, resamples: int = RESAMPLES
) -> dict[str, Floats]:
    """`Resamples.values` of several methods, on the same resamples."""
    drawn = Resamples.draw(group_S, seed=seed, count=resamples)
    return {name: drawn.values(refits) for name, refits in methods.items()}


def interval(values_R: Floats, level: float = LEVEL) -> list[float]:
    """Percentile interval [low, high] of bootstrap values, those without a value left out (Efron & Tibshirani 1993, ch. 13).

    [NaN, NaN] where no resample has a value.
    """
    if not np.isfinite(values_R).any():
        return [float("nan"), float("nan")]
    tail = (1 - level) / 2
    low, high = np.nanquantile(values_R, [tail, 1 - tail])
    return [float(low), float(high)]


@dataclass(frozen=True)
class DeLong:
    """AUROC of two scores on the same units, their difference, and how sure it is."""

    auroc: tuple[float, float]
    difference: float
    standard_error: float
    p: float

    def interval(self, level: float = LEVEL) -> list[float]:
        """Normal interval of the difference."""
        reach = float(stats.norm.ppf((1 + level) / 2)) * self.standard_error
        return [self.difference - reach, self.difference + reach]


def delong(positive_S: Bools, score_2S: Floats, group_S: Ints | None = None) -> DeLong:
    """Compare two correlated areas under the ROC curve (DeLong, DeLong & Clarke-Pearson 1988).

    Args:
        positive_S: the class.
        score_2S: of two methods, float64.
        group_S: units of one group are not independent: their components are summed first (Obuchowski 1997). None: they are.
    """
    positive_2P, negative_2N = score_2S[:, positive_S], score_2S[:, ~positive_S]
    above_2PN = (positive_2P[:, :, None] > negative_2N[:, None, :]) + (positive_2P[:, :, None] == negative_2N[:, None, :]) / 2
    area_2 = above_2PN.mean(axis=(1, 2))
    group_S = np.arange(len(positive_S)) if group_S is None else np.unique(group_S, return_inverse=True)[1]
    one_2G = _by_group(above_2PN.mean(axis=2) - area_2[:, None], group_S[positive_S], group_S)
    other_2G = _by_group(above_2PN.mean(axis=1) - area_2[:, None], group_S[~positive_S], group_S)
    holders = [len(np.unique(group_S[side_S])) for side_S in (positive_S, ~positive_S)]
    sizes = (positive_2P.shape[1], negative_2N.shape[1])
    covariance_22 = sum(
        count / max(count - 1, 1) * component_2G @ component_2G.T / size**2
        for count, component_2G, size in zip(holders, (one_2G, other_2G), sizes, strict=True)
    )
    groups = one_2G.shape[1]
    cross_22 = groups / max(groups - 1, 1) * one_2G @ other_2G.T / (sizes[0] * sizes[1])
    covariance_22 = covariance_22 + cross_22 + cross_22.T  # 0 where no group has both classes
    contrast_2 = np.array([1.0, -1.0])
    error = float(np.sqrt(max(contrast_2 @ covariance_22 @ contrast_2, 0.0)))
    difference = float(area_2[0] - area_2[1])
    p = 1.0 if error == 0 else float(2 * stats.norm.sf(abs(difference) / error))
    return DeLong((float(area_2[0]), float(area_2[1])), difference, error, p if error or not difference else 0.0)


def _by_group(component_2S: Floats, part_S: Ints, group_S: Ints) -> Floats:
    sum_2G = np.zeros((2, int(group_S.max()) + 1))
    for row, sums_G in zip(component_2S, sum_2G, strict=True):
        np.add.at(sums_G, part_S, row)
    return sum_2G


def permutation_p(value: float, null: Sequence[float], *, smaller_is_better: bool = False) -> float:
    """One-sided p of a value among those of permuted labels, itself counted (Phipson & Smyth 2010): never 0."""
    values = np.array(null)
    beaten = (values <= value) if smaller_is_better else (values >= value)
    return float((1 + beaten.sum()) / (1 + len(values)))


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """p-values adjusted so that the chance of any false finding stays below the level (Holm 1979)."""
    adjusted, worst = {}, 0.0
    for rank, name in enumerate(sorted(p, key=lambda name: p[name])):
        worst = max(worst, min(1.0, (len(p) - rank) * p[name]))
        adjusted[name] = worst
    return {name: adjusted[name] for name in p}
