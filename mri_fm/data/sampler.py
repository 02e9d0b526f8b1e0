"""Positions → samples: a global shuffle per epoch, and a disjoint stream of substitutes for bad samples."""

from __future__ import annotations

import numpy as np

from mri_fm.rng import Stream, generator

_TRY_SHIFT = 40  # positions stay below 2^40, so (position, try) pairs never meet


class Sampler:
    """Uniform sampling without replacement: every sample once per epoch of `count` positions."""

    def __init__(self, count: int, seed: int) -> None:
        """`count` samples, shuffled by `seed`; the permutation of one epoch is kept (8 bytes per sample)."""
        if count < 1:
            raise ValueError("a sampler needs at least one sample")
        self.count, self.seed = count, seed
        self._epoch, self._permutation = -1, np.empty(0, dtype=np.int64)

    def index(self, position: int) -> int:
        """The sample at a global position."""
        epoch, place = divmod(position, self.count)
        if epoch != self._epoch:
            self._epoch = epoch
            self._permutation = generator(self.seed, Stream.SHUFFLE, epoch).permutation(self.count)
        return int(self._permutation[place])

    def substitute(self, position: int, tries: int) -> int:
        """The `tries`-th (from 1) replacement for the sample at `position`: any other one, uniformly.

        The draw comes from its own stream. Taking the next position instead would repeat a neighbour's sample.
        """
        original = self.index(position)
        if self.count == 1:
            return original
        draw = generator(self.seed, Stream.SUBSTITUTE, position + (tries << _TRY_SHIFT))
        return (original + 1 + int(draw.integers(self.count - 1))) % self.count
