"""Plans: which position, sample and parameters DALI's sample counter stands for, in training and in evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from mri_fm.config import AugmentConfig
from mri_fm.data.corpus import Sample
from mri_fm.data.curriculum import Curriculum
from mri_fm.data.params import SampleParams, centre_params, draw_params
from mri_fm.data.positions import rank_positions
from mri_fm.data.sampler import Sampler

MAX_TRIES = 8


class Plan(Protocol):
    """Maps DALI's sample counter to positions, samples and parameters."""

    @property
    def tries(self) -> int:
        """Candidates to go through before giving up, at most MAX_TRIES."""

    def position(self, number: int) -> int:
        """Position of the `number`-th sample that DALI asks for."""

    def candidate(self, position: int, tries: int) -> int:
        """Index of the sample to serve after `tries` failures."""

    def params(self, position: int, sample: Sample) -> SampleParams:
        """How the sample is cropped and augmented."""


@dataclass(frozen=True)
class TrainPlan:
    """The endless stream of one rank: its samples are numbered from micro-step 0 of step 0."""

    sampler: Sampler
    curriculum: Curriculum
    augment: AugmentConfig
    seed: int
    global_batch: int
    accumulation: int
    rank: int
    world: int
    tries: int = MAX_TRIES

    @property
    def batch_size(self) -> int:
        """Samples of this rank in one micro-step."""
        return self.global_batch // (self.accumulation * self.world)

    def positions(self, batch: int) -> np.ndarray:
        """Positions of this rank's `batch`-th micro-step, int64 (batch_size,)."""
        step, micro = divmod(batch, self.accumulation)
        return rank_positions(
            step,
            micro,
            global_batch=self.global_batch,
            accumulation=self.accumulation,
            rank=self.rank,
            world=self.world,
        )

    def position(self, number: int) -> int:
        """Position of this rank's `number`-th sample."""
        batch, place = divmod(number, self.batch_size)
        return int(self.positions(batch)[place])

    def candidate(self, position: int, tries: int) -> int:
        """The shuffled sample first, then its substitutes."""
        return self.sampler.substitute(position, tries) if tries else self.sampler.index(position)

    def params(self, position: int, sample: Sample) -> SampleParams:
        """Random ones, from (seed, position)."""
        size = self.curriculum.size(position // self.global_batch)
        return draw_params(sample.shape, size, self.augment, seed=self.seed, position=position, spacing=sample.spacing)


@dataclass(frozen=True)
class EvaluationPlan:
    """Each of a rank's samples once, in order; numbers past the end (padding of the last batch) repeat the last one."""

    count: int
    size: Sequence[int]
    rank: int = 0
    world: int = 1
    tries: int = 1

    @property
    def own(self) -> int:
        """Samples of this rank: those whose index mod world is the rank."""
        return len(range(self.rank, self.count, self.world))

    def position(self, number: int) -> int:
        """The index of the sample itself."""
        return self.rank + self.world * min(number, self.own - 1)

    def candidate(self, position: int, tries: int) -> int:
        """Nothing replaces a sample in an evaluation."""
        return position

    def params(self, position: int, sample: Sample) -> SampleParams:
        """Deterministic centre crop."""
        return centre_params(sample.shape, self.size, spacing=sample.spacing)
