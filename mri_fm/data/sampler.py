"""Positions → units (samples or sessions): shuffled pools, mixed in fixed shares, and substitutes for bad samples.

Every answer is a function of (pools, seed, position) alone and found without replaying what came before: the only state is
a cache of one permutation per pool. docs/sampling.md has the equations.
"""

from __future__ import annotations

import heapq
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mri_fm.rng import Stream, generator

_TRY_SHIFT = 40  # positions stay below 2^40, so (position, try) pairs never meet
_NAME_SHIFT = 32  # epochs stay below 2^32, so (pool, epoch) pairs never meet


@dataclass(frozen=True, eq=False)
class Pool:
    """What is exhausted before anything in it comes again.

    Attributes:
        name: keys the shuffle, so that a pool keeps its order whatever it is mixed with.
        members: numbers of its units, int64 (n,), n ≥ 1.
        quota: how many positions of a period it gets, ≥ 1; a period has as many positions as all quotas together.
    """

    name: str
    members: np.ndarray
    quota: int = 1


class Sampler:
    """A mixture of pools; every pool is shuffled anew each time it is exhausted."""

    def __init__(self, pools: Sequence[Pool], seed: int) -> None:
        """Mix `pools`, which share no unit; keeps 8 bytes per unit and 12 per position of a period."""
        if not pools or any(len(pool.members) == 0 or pool.quota < 1 for pool in pools):
            raise ValueError("a sampler needs at least one pool, each with a unit and a quota")
        self.pools, self.seed = tuple(pools), seed
        self._shuffles = [_Shuffle(len(pool.members), seed, pool.name) for pool in pools]
        quotas = [pool.quota for pool in pools]
        self._schedule = interleave(quotas, seed) if len(pools) > 1 else np.zeros(quotas[0], dtype=np.int32)
        self._rank = _running_counts(self._schedule, len(pools))

    @classmethod
    def uniform(cls, count: int, seed: int) -> Sampler:
        """Units 0 … count − 1, each once per epoch of `count` positions."""
        return cls([Pool("", np.arange(count))], seed)

    def index(self, position: int) -> int:
        """The unit at a global position."""
        pool, place = self._locate(position)
        return int(self.pools[pool].members[place])

    def substitute(self, position: int, tries: int) -> int:
        """The `tries`-th (from 1) replacement for the unit at `position`: any other one of its pool, uniformly.

        A pool of one unit is helped out by the others. The draw comes from its own stream: taking the next position instead
        would repeat a neighbour's sample.
        """
        pool, place = self._locate(position)
        members = self.pools[pool].members
        draw = generator(self.seed, Stream.SUBSTITUTE, position + (tries << _TRY_SHIFT))
        if len(members) > 1:
            return int(members[(place + 1 + int(draw.integers(len(members) - 1))) % len(members)])
        others = np.concatenate([p.members for p in self.pools if p is not self.pools[pool]] or [members])
        return int(draw.choice(others))

    def _locate(self, position: int) -> tuple[int, int]:
        """The pool at a position, and which of its members is due."""
        period, place = divmod(position, len(self._schedule))
        pool = int(self._schedule[place])
        return pool, self._shuffles[pool].index(period * self.pools[pool].quota + int(self._rank[place]))


class _Shuffle:
    """Places 0 … count − 1, each once per epoch of `count` draws."""

    def __init__(self, count: int, seed: int, name: str) -> None:
        self._count, self._seed, self._first = count, seed, zlib.crc32(name.encode()) << _NAME_SHIFT
        self._epoch, self._permutation = -1, np.empty(0, dtype=np.int64)

    def index(self, number: int) -> int:
        """The place that the `number`-th draw gets."""
        epoch, place = divmod(number, self._count)
        if epoch != self._epoch:
            self._epoch = epoch
            self._permutation = generator(self._seed, Stream.SHUFFLE, self._first + epoch).permutation(self._count)
        return int(self._permutation[place])


def interleave(quotas: Sequence[int], seed: int) -> np.ndarray:
    """Spread pools over one period so that each has its share in any prefix.

    With M = Σ quotas, the j-th position (from 0) of a pool with quota q lies in its window [⌊j·M/q⌋, ⌈(j+1)·M/q⌉). Such a
    schedule exists, and taking the earliest deadline among the open windows finds one: Baruah, Cohen, Plaxton, Varvel,
    Proportionate progress, Algorithmica 15 (1996), theorem 2. Equal deadlines are settled at random, so that pools do not
    fall into step with the ranks.

    Args:
        quotas: positions of each pool in the period, ≥ 1.
        seed: settles equal deadlines.

    Returns:
        The pool of each position, int32 (M,); after n positions, pool c has been taken n·q_c/M times, more or less than
        that by less than 1, also over repeated periods.
    """
    quota_C = np.asarray(quotas, dtype=np.int64)
    period = int(quota_C.sum())
    pool_M = np.repeat(np.arange(len(quota_C)), quota_C)
    turn_M = _running_counts(pool_M, len(quota_C))
    begin_M = turn_M * period // quota_C[pool_M]
    end_M = -(-(turn_M + 1) * period // quota_C[pool_M])
    tie_M = generator(seed, Stream.MIXTURE, 0).permutation(period)
    by_begin = np.argsort(begin_M, kind="stable")
    waiting = zip(begin_M[by_begin].tolist(), end_M[by_begin].tolist(), tie_M.tolist(), pool_M[by_begin].tolist(), strict=True)
    return _earliest_deadline_first(list(waiting))


def _earliest_deadline_first(jobs: Sequence[tuple[int, int, int, int]]) -> np.ndarray:
    """Pool by time; `jobs` are (begin, end, tie, pool) by ascending begin, as many as there are times."""
    schedule, opened = np.empty(len(jobs), dtype=np.int32), 0
    ready: list[tuple[int, int, int]] = []
    for time in range(len(jobs)):
        while opened < len(jobs) and jobs[opened][0] <= time:
            heapq.heappush(ready, jobs[opened][1:])
            opened += 1
        schedule[time] = heapq.heappop(ready)[2]
    return schedule


def _running_counts(pool_M: np.ndarray, pools: int) -> np.ndarray:
    """How often the pool of each place came before it, int64 (M,)."""
    rank = np.empty(len(pool_M), dtype=np.int64)
    for pool in range(pools):
        places = np.flatnonzero(pool_M == pool)
        rank[places] = np.arange(len(places))
    return rank
