"""The mixture of data sets and contrasts: what share of the positions each gets.

    share_c = r_c^(1/T) / Σ r^(1/T),   r: the weights, or the numbers of volumes where none are given

That is temperature-scaled mixing (Raffel et al., JMLR 21 (2020), section 3.5.2; there with a limit on the numbers).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from mri_fm.config import DataConfig
from mri_fm.data.corpus import Sample
from mri_fm.data.sampler import Pool, Sampler
from mri_fm.errors import UserError, nearest

LONGEST_PERIOD = 1 << 16  # positions; shares that need more are rounded to multiples of its inverse


@dataclass(frozen=True)
class Mixture:
    """The resolved mixture of a run.

    Attributes:
        pools: by name, with their quotas.
        left_out: names and numbers of units that `data.mixture` does not name.
    """

    pools: tuple[Pool, ...]
    left_out: dict[str, int]

    def sampler(self, seed: int) -> Sampler:
        """The sampler of these pools."""
        return Sampler(self.pools, seed)

    def describe(self) -> str:
        """One line for the user."""
        period = sum(pool.quota for pool in self.pools)
        parts = [
            f"{pool.name} {pool.quota / period:.1%} ({len(pool.members)} units, once in {_epoch(pool, period)} positions)"
            for pool in self.pools
        ]
        rest = [f"{name} ({count} units)" for name, count in self.left_out.items()]
        return f"mixture: {', '.join(parts)}" + (f"; left out: {', '.join(rest)}" if rest else "")


def is_mixed(config: DataConfig) -> bool:
    """Whether the configuration asks for other shares than every volume equally often."""
    return bool(config.mixture) or config.temperature != 1.0


def resolve_mixture(units: Sequence[Sample], config: DataConfig) -> Mixture:
    """The pools that `data.mixture`, `data.mixture_by` and `data.temperature` make of the units.

    Args:
        units: one sample of each unit, in an order that is the same on all ranks.
        config: the options; errors name its corpus.

    Raises:
        UserError: a name that no unit has; the nearest one is given.
    """
    members: dict[str, list[int]] = {}
    for number, sample in enumerate(units):
        members.setdefault("/".join(getattr(sample, column) for column in config.mixture_by), []).append(number)
    unknown = [name for name in config.mixture if name not in members]
    if unknown:
        raise UserError(
            f"data.mixture names {', '.join(unknown)}, but by {' and '.join(config.mixture_by)} the training volumes of "
            f"{config.corpus} are {', '.join(sorted(members))}{nearest(unknown[0], sorted(members))}"
        )
    names = sorted(config.mixture or members)
    rates = [config.mixture[name] if config.mixture else len(members[name]) for name in names]
    pools = [
        Pool(name, np.array(members[name]), quota) for name, quota in zip(names, quotas(rates, config.temperature), strict=True)
    ]
    return Mixture(tuple(pools), {name: len(members[name]) for name in sorted(members) if name not in names})


def quotas(rates: Sequence[float], temperature: float = 1.0) -> list[int]:
    """Positions of each pool in one period.

    At temperature 1 the shares are exact if they fit a period of `LONGEST_PERIOD` positions. Else each is rounded to that many
    parts, but to one at least.

    Args:
        rates: weights or numbers of volumes, above 0, at most `LONGEST_PERIOD` of them.
        temperature: above 0; infinity gives equal shares.

    Returns:
        Numbers ≥ 1.
    """
    if temperature == 1.0:
        exact = [Fraction(repr(rate)) for rate in rates]  # 0.1 is a tenth here, not the nearest binary number
    else:
        exact = [Fraction((rate / max(rates)) ** (1.0 / temperature)) for rate in rates]
    shares = [rate / sum(exact) for rate in exact]
    period = math.lcm(*(share.denominator for share in shares))
    fits = period <= LONGEST_PERIOD and min(shares) > 0  # a low temperature can make a share 0 in floating point
    return [int(share * period) for share in shares] if fits else _rounded(shares)


def _rounded(shares: Sequence[Fraction]) -> list[int]:
    """Largest remainders: `LONGEST_PERIOD` parts in all, each share at least one."""
    spare = LONGEST_PERIOD - len(shares)
    parts = [math.floor(share * spare) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda c: parts[c] - shares[c] * spare)
    for c in by_remainder[: spare - sum(parts)]:
        parts[c] += 1
    return [part + 1 for part in parts]


def _epoch(pool: Pool, period: int) -> int:
    """Positions until every member of the pool has come."""
    return math.ceil(len(pool.members) * period / pool.quota)
