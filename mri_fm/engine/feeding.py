"""A run's loader, whose workers are forked before DeepSpeed, CUDA and any thread are there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mri_fm.config import Config
from mri_fm.data.corpus import Corpus
from mri_fm.data.loader import TrainLoader
from mri_fm.engine.environment import Environment
from mri_fm.engine.sequence_parallel import data_place


def build_loader(config: Config, corpus: Corpus, environment: Environment) -> TrainLoader:
    """The loader of this rank, from step 0."""
    rank, world = data_place(environment, config.train.sequence_parallel)
    return TrainLoader(
        corpus,
        corpus.select("train", config.data.contrasts),
        config.data,
        seed=config.seed,
        global_batch=config.train.global_batch,
        accumulation=config.train.accumulation,
        rank=rank,
        world=world,
        steps=config.train.steps,
        device=environment.device,
        local_ranks=environment.local_world,
    )


@contextmanager
def forked_workers(config: Config, environment: Environment) -> Iterator[TrainLoader | None]:
    """The loader with its workers, which end with the context; None where `data.workers` asks for none.

    Raises:
        UserError: no corpus, or one that cannot be trained on so.
        ResumableError: its storage does not answer.
    """
    if config.data.workers == 0:
        yield None
        return
    loader = build_loader(
        config, Corpus.open(config.data.corpus, verify="size", shards=config.data.reader != "archive"), environment
    )
    try:
        yield loader
    finally:
        loader.close()
