"""Plans: which row, sample and parameters DALI's sample counter stands for, in training and in evaluation.

A row is one volume at a position (`mri_fm.data.positions`); without views and sessions its number is the position.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from mri_fm.config import DataConfig
from mri_fm.data.artefacts import Artefacts, draw_artefacts
from mri_fm.data.corpus import Sample
from mri_fm.data.crop import hold_foreground
from mri_fm.data.curriculum import Curriculum
from mri_fm.data.evaluation import EvaluationConfig
from mri_fm.data.mixture import is_mixed, resolve_mixture
from mri_fm.data.params import SampleParams, centre_params, draw_params
from mri_fm.data.positions import Row, rank_positions, row_number, row_of
from mri_fm.data.sampler import Sampler
from mri_fm.data.sessions import Sessions

MAX_TRIES = 8


class Order(Protocol):
    """Which unit comes at a position: a shuffle (`Sampler`), or what a stream gives next (`SequentialStream`)."""

    def index(self, position: int) -> int:
        """The unit at a position."""

    def substitute(self, position: int, tries: int) -> int:
        """What comes instead, after `tries` (from 1) failures."""


class Plan(Protocol):
    """Maps DALI's sample counter to rows, samples and parameters."""

    @property
    def tries(self) -> int:
        """Candidates to go through before giving up, at most MAX_TRIES."""

    def row(self, number: int) -> int:
        """Number of the row that is the `number`-th sample DALI asks for."""

    def candidate(self, row: int, tries: int) -> int:
        """Index of the sample to serve after `tries` failures."""

    def is_extra(self, row: int) -> bool:
        """Whether the row repeats a contrast because its session has no further one."""

    def params(self, row: int, sample: Sample, voxels_ZYX: np.ndarray) -> SampleParams:
        """How the sample, with these stored voxels, is cropped and augmented."""

    def artefacts(self, row: int) -> Artefacts:
        """Of its acquisition."""


@dataclass(frozen=True)
class TrainPlan:
    """The endless stream of one rank: its rows are numbered from micro-step 0 of step 0."""

    sampler: Order
    sessions: Sessions | None
    curriculum: Curriculum
    config: DataConfig
    seed: int
    global_batch: int
    accumulation: int
    rank: int
    world: int
    tries: int = MAX_TRIES

    @property
    def batch_size(self) -> int:
        """Rows of this rank in one micro-step."""
        return self.global_batch // (self.accumulation * self.world) * self.config.rows

    def positions(self, batch: int) -> np.ndarray:
        """Positions of this rank's `batch`-th micro-step, int64."""
        step, micro = divmod(batch, self.accumulation)
        return rank_positions(
            step,
            micro,
            global_batch=self.global_batch,
            accumulation=self.accumulation,
            rank=self.rank,
            world=self.world,
        )

    def row(self, number: int) -> int:
        """Number of this rank's `number`-th row; those of a position follow each other, its slots one after the other."""
        batch, place = divmod(number, self.batch_size)
        place, within = divmod(place, self.config.rows)
        slot, view = divmod(within, self.config.views)
        return row_number(Row(int(self.positions(batch)[place]), slot, view))

    def candidate(self, row: int, tries: int) -> int:
        """The shuffled unit first, then its substitutes, the same for all rows of a position."""
        position, slot, _ = row_of(row)
        unit = self.sampler.substitute(position, tries) if tries else self.sampler.index(position)
        return unit if self.sessions is None else self.sessions.sample(unit, position, slot)

    def is_extra(self, row: int) -> bool:
        """True for the slots that a session with few contrasts has left over."""
        position, slot, _ = row_of(row)
        return self.sessions is not None and slot >= self.sessions.shown(self.sampler.index(position))

    def params(self, row: int, sample: Sample, voxels_ZYX: np.ndarray) -> SampleParams:
        """Random ones, from (seed, row)."""
        size = self.curriculum.size(row_of(row).position // self.global_batch)
        augment = self.config.augment
        params = draw_params(sample.shape, size, augment, seed=self.seed, position=row, spacing=sample.spacing)
        if self.config.crop_foreground == 0.0:
            return params
        return hold_foreground(params, voxels_ZYX, self.config.crop_foreground, seed=self.seed, row=row)

    def artefacts(self, row: int) -> Artefacts:
        """Random ones, from (seed, row)."""
        return draw_artefacts(self.config.augment.artefacts, seed=self.seed, position=row)


def group_units(samples: Sequence[Sample], config: DataConfig, seed: int) -> tuple[Sequence[Sample], Sessions | None]:
    """What the sampler draws, by one sample of each: the sessions if `data.session_contrasts` asks for them, else samples."""
    if not config.session_contrasts:
        return samples, None
    sessions = Sessions(samples, config.session_contrasts, seed)
    return [samples[sessions.first(unit)] for unit in range(len(sessions))], sessions


def plan_training(
    samples: Sequence[Sample],
    config: DataConfig,
    *,
    seed: int,
    steps: int | None,
    global_batch: int,
    accumulation: int,
    rank: int,
    world: int,
) -> TrainPlan:
    """The plan that a configuration asks for; arguments as `mri_fm.data.loader.TrainLoader`.

    Raises:
        UserError: a mixture of what is not among the samples.
    """
    units, sessions = group_units(samples, config, seed)
    mixed = is_mixed(config)
    sampler = resolve_mixture(units, config).sampler(seed) if mixed else Sampler.uniform(len(units), seed)
    curriculum = Curriculum.of(config, steps)
    return TrainPlan(sampler, sessions, curriculum, config, seed, global_batch, accumulation, rank, world)


@dataclass(frozen=True)
class EvaluationPlan:
    """Each of a rank's samples once, in order; numbers past the end (padding of the last batch) repeat the last one."""

    count: int
    size: Sequence[int]
    evaluation: EvaluationConfig
    rank: int
    world: int
    tries: int = 1

    @property
    def own(self) -> int:
        """Samples of this rank: those whose index mod world is the rank."""
        return len(range(self.rank, self.count, self.world))

    def row(self, number: int) -> int:
        """The index of the sample itself."""
        return self.rank + self.world * min(number, self.own - 1)

    def candidate(self, row: int, tries: int) -> int:
        """Nothing replaces a sample in an evaluation."""
        return row

    def is_extra(self, row: int) -> bool:
        """No row is."""
        return False

    def params(self, row: int, sample: Sample, voxels_ZYX: np.ndarray) -> SampleParams:
        """Deterministic ones."""
        rule = self.evaluation
        return centre_params(sample.shape, self.size, spacing=sample.spacing, plane=rule.plane, crop=rule.crop)

    def artefacts(self, row: int) -> Artefacts:
        """None."""
        return Artefacts()
