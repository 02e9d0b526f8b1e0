"""How often to save: what failures cost a long run, simulated.

A run of N nodes fails every M = MTBF / N on average. Between failures it restarts, then does τ seconds of work and saves for δ
seconds, again and again; what was not saved is done again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_CANDIDATES = 40
_RUNS = 400


@dataclass(frozen=True)
class Failures:
    """Seconds: between failures of the whole job, that a save blocks, from a failure to the first step again."""

    between: float
    save: float
    restart: float


@dataclass(frozen=True)
class Saving:
    """Seconds of work between saves, and the share of time that is kept work: its mean, and what 1 run in 20 falls below."""

    interval: float
    goodput: float
    low: float


def simulate(interval: float, failures: Failures, duration: float, seed: int) -> Saving:
    """Draw the times between failures, exponential, for 400 runs of `duration` seconds, and count the work that was saved."""
    count = math.ceil(duration / failures.between + 6 * math.sqrt(duration / failures.between) + 10)
    gap_RF = np.random.default_rng(seed).exponential(failures.between, (_RUNS, count))
    start_RF = np.cumsum(gap_RF, axis=1) - gap_RF
    gap_RF = np.clip(duration - start_RF, 0.0, gap_RF)  # the run ends in its last gap
    restart_RF = np.where(start_RF > 0, failures.restart, 0.0)
    kept_RF = np.floor(np.maximum(gap_RF - restart_RF, 0.0) / (interval + failures.save)) * interval
    goodput_R: NDArray[np.float64] = kept_RF.sum(axis=1) / duration
    return Saving(interval, float(goodput_R.mean()), float(np.quantile(goodput_R, 0.05)))


def recommend(failures: Failures, duration: float, seed: int = 0) -> Saving:
    """The interval of the best mean goodput among 40 around Daly's, all under the same draws."""
    centre = daly(failures)
    candidates = np.geomspace(centre / 4, centre * 4, _CANDIDATES)
    return max((simulate(float(tau), failures, duration, seed) for tau in candidates), key=lambda saving: saving.goodput)


def daly(failures: Failures) -> float:
    """The best τ, sqrt(2·δ·M)·(1 + sqrt(δ/2M)/3 + δ/18M) − δ: Daly, FGCS 2006, eq. 37; its first term is Young's, 1974."""
    ratio = failures.save / (2 * failures.between)
    if ratio >= 1:
        return failures.between
    return math.sqrt(2 * failures.save * failures.between) * (1 + math.sqrt(ratio) / 3 + ratio / 9) - failures.save


def expected_goodput(interval: float, failures: Failures) -> float:
    """Its exact mean for an endless run: work per cycle over exp(R/M)·(exp((τ+δ)/M) − 1)·M (Daly, FGCS 2006, eq. 20)."""
    mean = failures.between
    return interval / (mean * math.exp(failures.restart / mean) * math.expm1((interval + failures.save) / mean))
