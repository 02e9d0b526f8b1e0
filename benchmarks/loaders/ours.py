"""Our loader, as `train.py` makes it, and the part of it that reads and verifies."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sized

import torch

from loaders.settings import BIAS, BLUR, BLUR_PROBABILITY, FLIP, LOG_GAMMA, Settings
from mri_fm.config import load_config
from mri_fm.data.corpus import Corpus
from mri_fm.data.loader import TrainLoader
from mri_fm.data.reader import ShardReader


def ours(settings: Settings, readers: int = 0) -> Iterator[Sized]:
    """Batches of `TrainLoader`; `readers` processes read, or this one if 0."""
    augment = {
        "flip": FLIP,
        "scale": settings.scale,
        "rotation": settings.rotation,
        "gamma": LOG_GAMMA,
        "bias": BIAS,
        "blur": BLUR,
        "blur_probability": BLUR_PROBABILITY,
        "noise": settings.noise,
    }
    data = {"corpus": settings.corpus, "size": list(settings.size), "threads": settings.workers, "workers": readers}
    words = [f"data.{name}={value}" for name, value in data.items()]
    words += [f"data.augment.{name}={value}" for name, value in augment.items()]
    config = load_config("mae", [*words, "run.dir=unused"]).data
    corpus = Corpus.open(settings.corpus, verify="size")
    loader = TrainLoader(
        corpus,
        corpus.select("train"),
        config,
        seed=0,
        global_batch=settings.batch,
        accumulation=1,
        rank=0,
        world=1,
        device=torch.device(settings.device),
    )
    return (batch.x_BCZYX for batch in loader)


def read_and_verify(settings: Settings) -> Iterator[Sized]:
    """Payloads alone, checked against the manifest, one at a time."""
    corpus = Corpus.open(settings.corpus, verify="size")
    reader = ShardReader(corpus.storage)
    for sample in itertools.cycle(corpus.select("train")):
        yield [reader.read(sample)]
