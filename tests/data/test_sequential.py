"""DALI's own reader of shards as the source of training samples."""

import warnings
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from mri_fm.config import AugmentConfig
from mri_fm.data.codecs import LZ4
from mri_fm.data.corpus import Corpus
from mri_fm.data.params import draw_params
from mri_fm.data.reader import ShardReader
from mri_fm.data.source import intensity_window
from mri_fm.data.twin import augment_volume
from mri_fm.errors import UserError
from mri_fm.rng import Stream, normal
from tests.data.conftest import write_corpus
from tests.data.test_loader import SIZE, by_position, config, damage_payload, loader, take
from tests.s3 import S3Server


def sequential(root: Path | str, count: int, **changes) -> list:
    options = changes.pop("options", {})
    return take(loader(root, config(reader="sequential", **options), **changes), count)


def test_a_pass_holds_every_volume_of_a_real_corpus_once_with_the_parameters_of_its_position(corpus: Path) -> None:
    samples = {sample.key: sample for sample in Corpus.open(corpus).select("train")}
    batches = sequential(corpus, len(samples), global_batch=2)
    keys = [key for batch in batches for key in batch.keys]
    assert sorted(keys[: len(samples)]) == sorted(keys[len(samples) :]) == sorted(samples)
    reader = ShardReader()
    for batch in batches[:2]:
        for position, key, x in zip(batch.positions_B, batch.keys, batch.x_BCZYX, strict=True):
            sample = samples[key]
            params = draw_params(sample.shape, SIZE, AugmentConfig(), seed=1, position=int(position), spacing=sample.spacing)
            twin = augment_volume(reader.read(sample), params, intensity_window(sample, "foreground"), SIZE)
            noise = normal(1, Stream.NOISE, position[None], x.numel()).view(SIZE)
            assert (x[0] - twin.x_DHW - params.noise * noise).abs().max() < 1e-4


def test_the_order_of_the_shards_is_a_function_of_seed_and_pass(ellipsoids: Path) -> None:
    keys = [tuple(key for batch in sequential(ellipsoids, 7, seed=seed) for key in batch.keys) for seed in (1, 1, 2)]
    assert keys[0] == keys[1] != keys[2]


def test_all_ranks_take_as_many_steps_and_a_pass_over_them_misses_nothing(ellipsoids: Path) -> None:
    parts = [sequential(ellipsoids, 8, global_batch=2, rank=rank, world=2) for rank in range(2)]
    assert [len(part) for part in parts] == [8, 8]
    first_pass = [key for part in parts for batch in part[:4] for key in batch.keys]
    assert sorted(set(first_pass)) == [f"vol{n:03d}" for n in range(7)]
    assert len(first_pass) == 8  # one is repeated, so that both ranks have four
    positions = sorted(int(position) for part in parts for batch in part for position in batch.positions_B)
    assert positions == list(range(16))


def test_views_of_a_position_are_of_one_volume(ellipsoids: Path) -> None:
    for batch in sequential(ellipsoids, 3, options={"views": 2}):
        assert batch.keys[0::2] == batch.keys[1::2]
        assert not np.array_equal(batch.x_BCZYX[0], batch.x_BCZYX[1])


def test_compressed_shards_and_shards_on_s3_give_the_same_stream(ellipsoids: Path, tmp_path: Path) -> None:
    expected = by_position(sequential(ellipsoids, 4))
    write_corpus(tmp_path / "packed", LZ4)
    assert by_position(sequential(tmp_path / "packed", 4)) == expected
    with S3Server() as server:
        assert by_position(sequential(server.upload(ellipsoids), 4)) == expected


def test_a_contrast_alone_is_read_by_passing_over_the_others(ellipsoids: Path) -> None:
    opened = Corpus.open(ellipsoids)
    wanted = {sample.key for sample in opened.select("train", ["T2"])}
    from tests.data.test_loader import CPU, TrainLoader

    source = TrainLoader(
        opened, opened.select("train", ["T2"]), config(reader="sequential"), seed=1, global_batch=3, accumulation=1, rank=0,
        world=1, device=CPU,
    )  # fmt: skip
    assert {key for batch in take(source, 2) for key in batch.keys} == wanted


def test_resuming_warns_that_it_is_approximate(ellipsoids: Path) -> None:
    with pytest.warns(UserWarning, match="data.reader=sequential resumes at another place"):
        (batch,) = sequential(ellipsoids, 1, start_step=3)
    assert batch.positions_B.tolist() == [12, 13, 14, 15]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        sequential(ellipsoids, 1)


def test_a_bad_payload_is_named_and_replaced_by_the_next(own_ellipsoids: Path) -> None:
    victim = Corpus.open(own_ellipsoids).samples[3]
    source = loader(own_ellipsoids, config(reader="sequential", skip_budget=9))
    damage_payload(victim)
    batches = list(islice(source, 6))
    source.close()
    skips = [skip for batch in batches for skip in batch.skips]
    assert {(skip.key, skip.shard) for skip in skips} == {(victim.key, victim.shard.name)}
    assert "checksum" in skips[0].reason
    assert victim.key not in {key for batch in batches for key in batch.keys}


def test_a_missing_index_and_a_cut_shard_are_one_line(own_ellipsoids: Path) -> None:
    source = loader(own_ellipsoids, config(reader="sequential"))
    shard = own_ellipsoids / "shards" / "train-000001.tar"
    shard.write_bytes(shard.read_bytes()[:20000])
    with pytest.raises(
        UserError, match=r"DALI's reader of shards fails \(.+\): restore the shards, or take data\.reader=shards"
    ) as error:
        take(source, 9)
    assert "\n" not in str(error.value)
    source.close()
    shard.with_suffix(".idx").unlink()
    shard.unlink()
    with pytest.raises(UserError, match=r"train-000001\.idx is missing, and data\.reader=sequential needs it"):
        loader_without_checks(own_ellipsoids)


def loader_without_checks(root: Path) -> None:
    """As `loader`, on a corpus whose shards are not looked at."""
    from tests.data.test_loader import CPU, TrainLoader

    opened = Corpus.open(root, shards=False)
    TrainLoader(
        opened, opened.samples, config(reader="sequential"), seed=1, global_batch=2, accumulation=1, rank=0, world=1, device=CPU
    )
