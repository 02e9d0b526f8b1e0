"""The rules of `claims.design`, on measures that are there.

Axes: S seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from pretraining.runs import Measures

from claims.measures import correlation, power
from claims.power import BANDS

TOLERANCE = 0.01  # of the voxel error of λ = 0
LEAST_COSINE = 0.1
ABOVE_CUTOFF = range(1, len(BANDS))
BySeed = Sequence[Measures]


def seed_means(by_seed: BySeed, name: str) -> np.ndarray:
    """A measure's mean under each seed, (S,)."""
    return np.array([np.mean(measures[name]) for measures in by_seed])


def direction(cosine_S: np.ndarray) -> str:
    """What the spectral gradient does to the voxel error, by the cosines of the seeds."""
    if (cosine_S < 0).all() and cosine_S.mean() < -LEAST_COSINE:
        return "interferes"
    if (cosine_S > 0).all() and cosine_S.mean() > LEAST_COSINE:
        return "helps"
    return "orthogonal"


def power_error(by_seed: BySeed) -> np.ndarray:
    """|log power ratio| of the bands above the cut-off, mean over bands and people, (S,)."""
    return np.mean([[np.mean(np.abs(np.log(m[power(band)]))) for band in ABOVE_CUTOFF] for m in by_seed], axis=1)


def structure(by_seed: BySeed) -> np.ndarray:
    """Correlation with the truth, mean over the same bands and people, (S,)."""
    return np.mean([seed_means(by_seed, correlation(band)) for band in ABOVE_CUTOFF], axis=0)


def excess_error(by_seed: BySeed, without: BySeed) -> float:
    """Voxel error over that of λ = 0, minus 1, mean over seeds."""
    return float(np.mean(seed_means(by_seed, "voxel_error") / seed_means(without, "voxel_error")) - 1)


def restores_power(by_seed: BySeed, without: BySeed) -> bool:
    """In every seed."""
    return bool((power_error(by_seed) < power_error(without)).all())


def restores_structure(by_seed: BySeed, without: BySeed) -> bool:
    """In every seed."""
    return bool((structure(by_seed) > structure(without)).all())


def affordable(by_seed: BySeed, without: BySeed) -> bool:
    """The two conditions of a weight that is recommended."""
    return excess_error(by_seed, without) <= TOLERANCE and restores_power(by_seed, without)


def recommended_weight(last: Mapping[float, BySeed], *, published: float = 0.01) -> float:
    """The largest affordable λ of `log_magnitude`; `last` has the measures at the last step by λ, 0 among them."""
    return max((weight for weight in last if weight > 0 and affordable(last[weight], last[0.0])), default=published)


def collapsed(arm: BySeed, random: BySeed, network: str = "teacher") -> bool:
    """Effective rank or standard deviation over the views below half of the random encoder's, in every seed."""
    return any(
        (seed_means(arm, name) < seed_means(random, name) / 2).all()
        for name in (f"{network} views effective_rank", f"{network} views std")
    )


def raises(arm: BySeed, other: BySeed, name: str) -> bool:
    """More of a measure in every seed."""
    return bool((seed_means(arm, name) > seed_means(other, name)).all())


def pilot_holds(jepa: BySeed, vcr: BySeed, random: BySeed, rank: str, network: str = "teacher") -> bool:
    """The third rule of claim 2, in "rankme" or "effective_rank"."""
    name = f"{network} views {rank}"
    low = (seed_means(jepa, name) < seed_means(random, name) / 2).all()
    return bool(low) and raises(vcr, random, name) and raises(vcr, jepa, f"{network} views std")
