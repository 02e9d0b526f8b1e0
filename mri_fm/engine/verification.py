"""A corpus checked by all ranks before training: each reads its share of the shards, and all learn what one has found."""

from __future__ import annotations

from contextlib import closing

from tqdm import tqdm

from mri_fm.config import DataConfig
from mri_fm.data.corpus import Corpus
from mri_fm.data.reader import open_reader
from mri_fm.data.watchdog import Watchdog
from mri_fm.data.workers import Activity, Workers
from mri_fm.engine.environment import Environment, on_all_ranks, on_rank_0


def open_corpus(config: DataConfig, environment: Environment) -> Corpus:
    """The corpus, checked as `data.verify` asks, and this node's cache.

    Raises:
        UserError, ResumableError: the same one on all ranks, whichever has met it.
    """
    shards = config.reader != "archive"
    full = config.verify == "full"
    on_rank_0(environment, lambda: _open_briefly(config, "manifest" if full else "size", shards))
    corpus = Corpus.open(config.corpus, verify="size", shards=shards)
    on_all_ranks(environment, lambda: open_reader(corpus.storage, config).close())
    if full and shards:
        on_all_ranks(environment, lambda: _verify_share(corpus, environment, config.timeout_s))
    return corpus


def _open_briefly(config: DataConfig, verify: str, shards: bool) -> None:
    Corpus.open(config.corpus, verify=verify, shards=shards)


def _verify_share(corpus: Corpus, environment: Environment, timeout_s: float) -> None:
    """Read the shards r, r + W, r + 2W, … of rank r of W; a read that blocks ends the rank as one in training does."""
    ends = dict(sorted(corpus.shard_ends().items()))
    share = list(ends)[environment.rank :: environment.world]
    activity = Activity(workers=0)
    watchdog = Watchdog(activity, Workers(), timeout_s, lambda _, number: f"shard {share[number]}")
    bar = tqdm(
        total=sum(ends[name] for name in share),
        desc="verifying shards",
        unit="B",
        unit_scale=True,
        disable=None if environment.is_main else True,
    )

    def seen(size: int) -> None:
        activity.touch()
        bar.update(size)

    with closing(watchdog), bar, watchdog.waiting():
        for number, name in enumerate(share):
            with activity.reading(position=number, sample=number):
                corpus.verify_shard(name, seen)
