"""Print what training would see: `python -m mri_fm.data.inspect --corpus C --seed S --world W --start K --steps N`.

On stdout come only JSON lines {"step", "keys", "checksums"} in position order: the CRC-32 of each augmented float32 sample
(little-endian bytes, C order), computed on the CPU with one thread. The lines are the same for every world and every start.
The rows of a position (its views, the contrasts of its session) follow each other.
"""

from __future__ import annotations

import argparse
import json
import zlib
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing

import torch

from mri_fm.config import Config, load_config
from mri_fm.data.corpus import Corpus, Sample
from mri_fm.data.loader import Batch, TrainLoader
from mri_fm.data.positions import Row, row_of
from mri_fm.data.skips import SkipCount
from mri_fm.errors import UserError, run_main


def inspect_lines(config: Config, *, world: int, start: int, steps: int) -> Generator[str, None, None]:
    """One JSON line per optimizer step; every rank's own loader runs, and positions merge what they give.

    Raises:
        UserError: a corpus that cannot be used, a batch that does not divide by `world`, or more bad samples than the budget.
    """
    corpus = Corpus.open(config.data.corpus, config.data.verify, shards=config.data.reader != "archive")
    samples = corpus.select("train", config.data.contrasts)
    skipped = SkipCount(config.data.skip_budget, corpus.root)
    loaders = [_rank_loader(corpus, samples, config, rank, world, start) for rank in range(world)]
    try:
        for step in range(start, start + steps):
            batches = [next(loader) for _ in range(config.train.accumulation) for loader in loaders]
            skipped.add(skip for batch in batches for skip in batch.skips)
            merged = sorted(item for batch in batches for item in _described(batch))
            yield json.dumps({"step": step, "keys": [key for _, key, _ in merged], "checksums": [crc for _, _, crc in merged]})
    finally:
        for loader in loaders:
            loader.close()


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m mri_fm.data.inspect", description="Print the stream of training samples.")
    parser.add_argument("--corpus", required=True, help="folder or s3://bucket/prefix")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--world", type=int, default=1, help="ranks to simulate")
    parser.add_argument("--start", type=int, default=0, help="optimizer steps already taken")
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("words", nargs="*", metavar="key=value", help="as for train.py, for instance train.global_batch=16")
    arguments = parser.parse_intermixed_args(argv)
    for name, least in (("world", 1), ("start", 0), ("steps", 0)):
        if getattr(arguments, name) < least:
            raise UserError(f"--{name} {getattr(arguments, name)} must be at least {least}")
    torch.set_num_threads(1)
    config = load_config("mae", [*arguments.words, "data.corpus=unset", "run.dir=unset"])
    config.data.corpus, config.data.device, config.seed = arguments.corpus, "cpu", arguments.seed
    with closing(inspect_lines(config, world=arguments.world, start=arguments.start, steps=arguments.steps)) as lines:
        for line in lines:
            print(line, flush=True)


def _rank_loader(corpus: Corpus, samples: list[Sample], config: Config, rank: int, world: int, start: int) -> TrainLoader:
    return TrainLoader(
        corpus,
        samples,
        config.data,
        seed=config.seed,
        global_batch=config.train.global_batch,
        accumulation=config.train.accumulation,
        rank=rank,
        world=world,
        start_step=start,
        steps=config.train.steps,
        device=torch.device("cpu"),
        prefetch=1,
    )


def _described(batch: Batch) -> Iterator[tuple[Row, str, int]]:
    """(row, key, CRC-32) of each sample."""
    for row, key, x_CZYX in zip(batch.positions_B.tolist(), batch.keys, batch.x_BCZYX, strict=True):
        yield row_of(row), key, zlib.crc32(x_CZYX.contiguous().numpy())


if __name__ == "__main__":
    run_main(main)
