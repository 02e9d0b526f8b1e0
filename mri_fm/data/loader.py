"""Batches for training and evaluation: positions → shards → DALI → torch, with bad samples replaced and counted.

Axes: B batch, C channel (1), Z/Y/X depth, height, width of the input (after orientation).
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from mri_fm.config import DataConfig
from mri_fm.data.corpus import Corpus, Sample
from mri_fm.data.feed import Feed
from mri_fm.data.inflate import InflatingSource, can_inflate
from mri_fm.data.noise import Scan, acquire_
from mri_fm.data.pipeline import build_pipeline
from mri_fm.data.plan import EvaluationPlan, Plan, TrainPlan, plan_training
from mri_fm.data.positions import check_batch, row_of
from mri_fm.data.reader import Fault, Reader, open_reader
from mri_fm.data.shared_memory import check_shared_memory, needed_bytes, sample_bytes
from mri_fm.data.skips import Skip, listed
from mri_fm.data.source import SampleSource, Status
from mri_fm.errors import ResumableError, UserError
from mri_fm.inputs import Inputs, to_device


@dataclass(frozen=True, eq=False, kw_only=True)
class Batch(Inputs):
    """The inputs of an objective, and where they come from.

    In evaluation positions are indices into the given list. The foreground is where the stored one lies after crop, flip and
    resize.

    Attributes:
        valid_B: bool; False where a bad sample was replaced or is missing, be it in one view of it alone, and where a slot
            repeats a contrast as its session has no other. For what counts samples or pairs views and contrasts;
            objectives train on every row, since a replacement is a sample like any other.
        keys: the samples that were served; those of a position follow each other, its contrasts one after the other and within
            each its views.
        contrasts: of these samples.
        skips: bad samples that were replaced in this batch.
        cached: how many samples came from this node's cache.
    """

    foreground_BCZYX: Tensor
    spacing_B3: Tensor
    valid_B: Tensor
    keys: tuple[str, ...]
    contrasts: tuple[str, ...]
    skips: tuple[Skip, ...]
    cached: int = 0


class TrainLoader:
    """An endless iterator over one rank's micro-batches, beginning at micro-step 0 of `start_step`.

    What it yields at a position depends on (corpus, config, seed, position) alone: not on ranks, restarts or prefetching.
    """

    def __init__(
        self,
        corpus: Corpus,
        samples: Sequence[Sample],
        config: DataConfig,
        *,
        seed: int,
        global_batch: int,
        accumulation: int,
        rank: int,
        world: int,
        start_step: int = 0,
        steps: int | None = None,
        device: torch.device,
        prefetch: int = 2,
        local_ranks: int = 1,
    ) -> None:
        """Build the pipeline and fork its workers, if there are to be any; then CUDA must not have been used yet.

        Args:
            corpus: where the samples come from; errors name it.
            samples: what to draw from, in an order that is the same on all ranks.
            config: size, device, augmentation, skip budget.
            seed: the run's seed.
            global_batch: samples per optimizer step over all ranks.
            accumulation: micro-steps per optimizer step.
            rank, world: which part of each micro-step is ours.
            start_step: optimizer steps already taken.
            steps: optimizer steps of the run; only `data.curriculum` needs them.
            device: where the batches are wanted.
            prefetch: batches that DALI works on ahead, this one included.
            local_ranks: ranks that share this node's memory.

        Raises:
            UserError: no samples, a batch that does not divide, too little shared memory for workers, or a GPU asked for where
                there is none.
        """
        check_batch(global_batch, accumulation, world)
        _require_samples(corpus, samples)
        plan = plan_training(
            samples,
            config,
            seed=seed,
            steps=steps,
            global_batch=global_batch,
            accumulation=accumulation,
            rank=rank,
            world=world,
        )
        if config.workers:
            needed = needed_bytes((s.shape for s in samples), batch_size=plan.batch_size, prefetch=prefetch)
            check_shared_memory(needed, local_ranks)
        reader, self._plan = _open_training(corpus, samples, plan)
        layout = {"batch_size": plan.batch_size, "prefetch": prefetch, "workers": config.workers}
        self._batches = _PipelineBatches(samples, self._plan, config, reader=reader, device=device, **layout)
        self._approximate = config.reader == "sequential" and rank == 0
        self._micro_batch = global_batch // accumulation
        self._steps_to_samples = accumulation * self._plan.batch_size
        self._global_batch = global_batch
        self.seek(start_step)

    def __iter__(self) -> TrainLoader:
        return self

    def __next__(self) -> Batch:
        """The next micro-batch.

        Raises:
            UserError: nothing readable to replace a bad sample.
            ResumableError: the storage does not answer for any sample, or a pipeline has failed before.
        """
        batch = self._batches.next(group_position=self._next_group, seed=self._plan.seed)
        self._next_group += self._micro_batch
        return batch

    def seek(self, step: int) -> None:
        """Begin at micro-step 0 of `step`; only before the first batch."""
        if step and self._approximate:
            warnings.warn("data.reader=sequential resumes at another place of the corpus: docs/sources.md", stacklevel=2)
        self._batches.seek(step * self._steps_to_samples)
        self._next_group = step * self._global_batch

    def close(self) -> None:
        """Drop the pipeline, end the workers and close the shards."""
        self._batches.close()


def evaluation_batches(
    corpus: Corpus,
    samples: Sequence[Sample],
    config: DataConfig,
    *,
    batch_size: int,
    device: torch.device,
    rank: int = 0,
    world: int = 1,
    strict: bool = True,
) -> Iterator[Batch]:
    """This rank's part of the samples, each once, in order, without augmentation; the last batch may be smaller.

    Rank r takes the samples r, r + world, r + 2·world, …: over all ranks every sample comes exactly once and none is repeated
    to fill up, so ranks may give different numbers of batches, and one that has no sample gives none.

    An evaluation replaces nothing. Where `strict` is False a sample that cannot be read comes as zeros, with `valid_B` False
    and its reason in `skips`: for numbers about a run that goes on without it.

    Raises:
        UserError: a sample cannot be read, or a GPU is asked for where there is none.
        ResumableError: the storage does not answer.
    """
    plan = EvaluationPlan(len(samples), config.size, config.evaluation, rank, world)
    if not plan.own:
        return
    reader = open_reader(corpus.storage, config)
    batches = _PipelineBatches(samples, plan, config, reader=reader, batch_size=batch_size, device=device, prefetch=1)
    try:
        for first in range(0, plan.own, batch_size):
            yield batches.next(group_position=first * world, count=min(batch_size, plan.own - first), strict=strict)
    finally:
        batches.close()


def _require_samples(corpus: Corpus, samples: Sequence[Sample]) -> None:
    if not samples:
        raise UserError(f"{corpus.root} has no volume to train on: choose another corpus, split or contrast")


def _open_training(corpus: Corpus, samples: Sequence[Sample], plan: TrainPlan) -> tuple[Reader, TrainPlan]:
    """What reads the samples, and the plan: a sequential reader gives them an order of its own."""
    if plan.config.reader != "sequential":
        return open_reader(corpus.storage, plan.config), plan
    from mri_fm.data.sequential import SequentialStream

    stream = SequentialStream(samples, corpus.storage, seed=plan.seed, rank=plan.rank, world=plan.world)
    return stream, replace(plan, sampler=stream)


class _PipelineBatches:
    """The DALI pipeline of a plan, as batches of torch tensors."""

    def __init__(
        self,
        samples: Sequence[Sample],
        plan: Plan,
        config: DataConfig,
        *,
        reader: Reader,
        batch_size: int,
        device: torch.device,
        prefetch: int,
        workers: int = 0,
    ) -> None:
        self._samples, self._plan, self._device = samples, plan, device
        self._rician = config.augment.rician
        dali_device = _dali_device(config.device, device)
        inflate = can_inflate(samples, reader, config, dali_device)
        source = (InflatingSource if inflate else SampleSource)(samples, plan, config.statistics, reader)
        build = partial(
            build_pipeline,
            source,
            device=dali_device,
            inflate=inflate,
            statistics=config.statistics,
            batch_size=batch_size,
            threads=config.threads,
            device_id=device.index or 0,
            prefetch=prefetch,
            sample_bytes=max((sample_bytes(sample.shape) for sample in samples), default=None),
        )
        self._feed = Feed(
            source,
            lambda count: build(workers=count),
            batch_size=batch_size,
            workers=workers,
            timeout_s=config.timeout_s,
        )

    def seek(self, number: int) -> None:
        """Begin at the `number`-th sample of the plan."""
        self._feed.seek(number)

    def next(self, *, group_position: int, seed: int = 0, count: int | None = None, strict: bool = True) -> Batch:
        """Run the pipeline once and keep the first `count` samples; `strict`: none of them may lack one."""
        volumes, foreground, air, noise, spacing, packed = self._feed.run()
        statuses = [Status.unpack(row) for row in packed.as_array()[:count]]
        skips = tuple(itertools.chain.from_iterable(map(self._skips, statuses)))
        if strict:
            _require_served(statuses, skips)
        x_BCZYX = self._tensor(volumes, count)
        foreground_BCZYX = self._tensor(foreground, count).bool()
        positions_B = to_device(torch.tensor([status.row for status in statuses]), self._device)
        scans = [
            Scan(float(deviation), self._rician, self._plan.artefacts(status.row), tuple(millimetres.tolist()))
            for deviation, millimetres, status in zip(noise.as_array(), spacing.as_array(), statuses, strict=False)
        ]
        acquire_(x_BCZYX, self._tensor(air, count).flatten(), scans, positions_B, seed)
        served = [self._samples[self._plan.candidate(s.row, 0) if s.served < 0 else s.served] for s in statuses]
        faulty = {row_of(status.row)[:2] for status in statuses if status.faults}  # workers read each view by itself
        valid = [row_of(s.row)[:2] not in faulty and not self._plan.is_extra(s.row) for s in statuses]
        return Batch(
            x_BCZYX,
            positions_B,
            group_position,
            foreground_BCZYX=foreground_BCZYX,
            spacing_B3=to_device(torch.tensor(spacing.as_array()[:count]), self._device),
            valid_B=to_device(torch.tensor(valid), self._device),
            keys=tuple(sample.key for sample in served),
            contrasts=tuple(sample.contrast for sample in served),
            skips=skips,
            cached=sum(status.cached for status in statuses),
        )

    def _tensor(self, volumes: Any, count: int | None) -> Tensor:
        """DALI's (B, D, H, W, C) as (B, C, Z, Y, X) here; a copy, since DALI may use its buffer again for a later batch."""
        return to_device(from_dlpack(volumes.as_tensor())[:count, None, ..., 0], self._device)

    def close(self) -> None:
        """Drop the pipeline, end its workers and close the shards."""
        self._feed.close()

    def _skips(self, status: Status) -> Iterator[Skip]:
        """The samples that failed at a position: the candidates are a pure function of it."""
        for tries, fault in enumerate(status.faults):
            bad = self._samples[self._plan.candidate(status.row, tries)]
            yield Skip(row_of(status.row).position, bad.key, bad.shard.name, fault.describe())


def _dali_device(wanted: str, device: torch.device) -> str:
    if wanted == "gpu" and device.type != "cuda":
        raise UserError("data.device=gpu needs a CUDA device and this process works on the CPU: set data.device=cpu")
    if device.type != "cuda" or wanted == "cpu":
        return "cpu"
    warnings.warn("DALI's GPU graph is untested (docs/gpu-untested.md): python -m pytest -m gpu tests/data", stacklevel=2)
    return "gpu"


def _require_served(rows: Sequence[Status], skips: Sequence[Skip]) -> None:
    unserved = [row for row in rows if row.served < 0]
    if any(set(row.faults) == {Fault.UNREACHABLE} for row in unserved):
        raise ResumableError(f"the storage is away: {listed(skips)}; the same command goes on once it is back")
    if unserved:
        raise UserError(f"no readable sample to serve: {listed(skips)}; restore these shards or build the corpus again")
