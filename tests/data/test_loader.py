import os
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from mri_fm.config import ArtefactConfig, AugmentConfig, DataConfig
from mri_fm.data.corpus import Corpus, Sample
from mri_fm.data.evaluation import EvaluationConfig
from mri_fm.data.loader import Batch, TrainLoader, evaluation_batches
from mri_fm.data.params import centre_params, draw_params
from mri_fm.data.reader import ShardReader
from mri_fm.data.source import intensity_window
from mri_fm.data.survey import foreground_tokens
from mri_fm.data.twin import augment_volume
from mri_fm.errors import UserError
from mri_fm.rng import Stream, normal
from tests.distributed import run_ranks

SIZE = [8, 16, 16]
CPU = torch.device("cpu")


def config(**changes) -> DataConfig:
    return DataConfig(corpus="unused", **({"size": SIZE} | changes))


def loader(root: Path | str, data: DataConfig | None = None, **changes) -> TrainLoader:
    corpus = Corpus.open(root)
    layout = {"seed": 1, "global_batch": 4, "accumulation": 1, "rank": 0, "world": 1} | changes
    return TrainLoader(corpus, corpus.select("train"), data or config(), device=CPU, **layout)


def by_position(batches: Sequence[Batch]) -> dict[int, tuple[str, bytes]]:
    return {
        position: (key, x.numpy().tobytes())
        for batch in batches
        for position, key, x in zip(batch.positions_B.tolist(), batch.keys, batch.x_BCZYX, strict=True)
    }


def take(source: TrainLoader, count: int) -> list[Batch]:
    batches = list(islice(source, count))
    source.close()
    return batches


def test_a_batch_is_what_its_positions_say(ellipsoids: Path) -> None:
    samples = {sample.key: sample for sample in Corpus.open(ellipsoids).samples}
    reader = ShardReader()
    for step, batch in enumerate(take(loader(ellipsoids), 3)):
        assert batch.x_BCZYX.shape == (4, 1, *SIZE)
        assert batch.x_BCZYX.dtype == torch.float32
        assert batch.positions_B.tolist() == list(range(4 * step, 4 * step + 4))
        assert batch.group_position == 4 * step
        rows = zip(batch.positions_B, batch.keys, batch.x_BCZYX, batch.foreground_BCZYX, strict=True)
        for position, key, x, foreground in rows:
            sample = samples[key]
            spacing = sample.spacing
            params = draw_params(sample.shape, SIZE, AugmentConfig(), seed=1, position=int(position), spacing=spacing)
            twin = augment_volume(reader.read(sample), params, intensity_window(sample, "foreground"), SIZE)
            noise = normal(1, Stream.NOISE, position[None], x.numel()).view(SIZE)
            assert foreground[0].equal(twin.foreground_DHW)
            assert (x[0] - twin.x_DHW - params.noise * noise).abs().max() < 1e-4
        spacings = [
            draw_params(
                samples[key].shape, SIZE, AugmentConfig(), seed=1, position=position, spacing=samples[key].spacing
            ).input_spacing()
            for position, key in zip(batch.positions_B.tolist(), batch.keys, strict=True)
        ]
        assert batch.spacing_B3.dtype == torch.float32
        assert batch.spacing_B3.numpy() == pytest.approx(np.stack(spacings))


def test_the_stream_is_the_same_for_every_world_start_and_accumulation(ellipsoids: Path) -> None:
    whole = by_position(take(loader(ellipsoids, global_batch=8), 3))
    assert len(whole) == 24
    parts = [take(loader(ellipsoids, global_batch=8, accumulation=2, rank=r, world=2), 6) for r in range(2)]
    assert by_position(parts[0] + parts[1]) == whole
    assert [batch.group_position for batch in parts[1]] == [0, 4, 8, 12, 16, 20]
    late = by_position(take(loader(ellipsoids, global_batch=8, start_step=2), 1))
    assert late == {position: whole[position] for position in range(16, 24)}


EVERYTHING = AugmentConfig(
    rotation=10, blur_probability=1, rician=True, artefacts=ArtefactConfig(motion=1, ghosting=1, spike=1, anisotropy=1)
)


def test_with_everything_on_the_stream_is_still_the_same_for_every_world(ellipsoids: Path) -> None:
    data = config(augment=EVERYTHING)
    whole = by_position(take(loader(ellipsoids, data), 2))
    parts = [take(loader(ellipsoids, data, rank=r, world=2), 2) for r in range(2)]
    assert by_position(parts[0] + parts[1]) == whole


def test_neither_artefacts_nor_noise_move_the_foreground(ellipsoids: Path) -> None:
    geometry = AugmentConfig(rotation=10, blur=0, noise=0, gamma=0, bias=0)
    (plain,), (changed,) = (take(loader(ellipsoids, config(augment=a)), 1) for a in (geometry, EVERYTHING))
    assert (plain.x_BCZYX - changed.x_BCZYX).abs().amax(dim=(1, 2, 3, 4)).min() > 0.3
    assert plain.foreground_BCZYX.equal(changed.foreground_BCZYX)
    assert plain.spacing_B3.equal(changed.spacing_B3)


def test_threads_and_prefetching_do_not_matter(ellipsoids: Path) -> None:
    assert by_position(take(loader(ellipsoids), 3)) == by_position(take(loader(ellipsoids, config(threads=2), prefetch=1), 3))


def test_seeds_differ(ellipsoids: Path) -> None:
    assert by_position(take(loader(ellipsoids), 1)) != by_position(take(loader(ellipsoids, seed=2), 1))


def test_batches_stay_as_they_were_when_more_are_drawn(ellipsoids: Path) -> None:
    source = loader(ellipsoids)
    first = next(source)
    copy = first.x_BCZYX.clone()
    take(source, 4)
    assert torch.equal(first.x_BCZYX, copy)


def damage_payload(sample: Sample) -> None:
    """Overwrite in place, so that descriptors which are already open see it."""
    descriptor = os.open(sample.shard, os.O_WRONLY)
    os.pwrite(descriptor, b"\xff" * 64, sample.offset + 1000)
    os.close(descriptor)


def test_a_shard_corrupted_under_a_running_loader_is_replaced_the_same_way_everywhere(own_ellipsoids: Path) -> None:
    sound = by_position(take(loader(own_ellipsoids), 6))
    data = config(skip_budget=100)
    sources = [loader(own_ellipsoids, data)] + [loader(own_ellipsoids, data, rank=r, world=2) for r in range(2)]
    before = [next(source) for source in sources]
    victim = Corpus.open(own_ellipsoids).samples[3]
    damage_payload(victim)
    after = [list(islice(source, 5)) for source in sources]
    for source in sources:
        source.close()
    streams = [by_position([first, *rest]) for first, rest in zip(before, after, strict=True)]
    prefetched = 4 + 4  # one batch consumed, one already read
    assert {p: v for p, v in streams[0].items() if p >= prefetched} == {
        p: v for p, v in (streams[1] | streams[2]).items() if p >= prefetched
    }
    hit = [p for p, (key, _) in sound.items() if key == victim.key and p >= prefetched]
    assert hit
    for position in range(prefetched, 24):
        assert (streams[0][position] == sound[position]) == (position not in hit)
        assert streams[0][position][0] != victim.key
    skips = [skip for batch in after[0] for skip in batch.skips if skip.position >= prefetched]
    assert {skip.position for skip in skips} == set(hit)
    assert {(skip.key, skip.shard) for skip in skips} == {(victim.key, victim.shard.name)}
    assert "checksum" in skips[0].reason


def test_a_truncated_shard_is_skipped_with_its_reason(own_ellipsoids: Path) -> None:
    source = loader(own_ellipsoids, config(skip_budget=50))
    os.truncate(own_ellipsoids / "shards" / "train-000000.tar", 1000)
    skips = [skip for batch in take(source, 6) for skip in batch.skips]
    assert {skip.key for skip in skips} == {"vol000", "vol001", "vol002"}
    assert {skip.reason for skip in skips} == {"the shard ends before the payload does"}


def test_a_corpus_with_nothing_readable_ends_in_an_error(own_ellipsoids: Path) -> None:
    source = loader(own_ellipsoids, config(skip_budget=1000))
    for shard in (own_ellipsoids / "shards").glob("*.tar"):
        os.truncate(shard, 0)
    with pytest.raises(UserError, match="no readable sample to serve: vol"):
        next(source)
    source.close()


def test_a_transient_error_does_not_change_the_stream(ellipsoids: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = by_position(take(loader(ellipsoids), 2))
    pread, calls = os.pread, iter(range(1000))

    def every_other_read_is_short(descriptor: int, size: int, offset: int) -> bytes:
        return pread(descriptor, size if next(calls) % 2 else size // 2, offset)

    monkeypatch.setattr(os, "pread", every_other_read_is_short)
    batches = take(loader(ellipsoids), 2)
    assert by_position(batches) == expected
    assert not any(batch.skips for batch in batches)


@pytest.mark.parametrize("batch_size", [1, 3, 7, 10])
def test_evaluation_gives_every_sample_once_in_order(ellipsoids: Path, batch_size: int) -> None:
    corpus = Corpus.open(ellipsoids)
    chosen = corpus.samples[::-1]
    batches = list(evaluation_batches(corpus, chosen, config(), batch_size=batch_size, device=CPU))
    assert [key for batch in batches for key in batch.keys] == [sample.key for sample in chosen]
    assert torch.cat([batch.positions_B for batch in batches]).tolist() == list(range(7))
    alone = list(evaluation_batches(corpus, chosen, config(), batch_size=1, device=CPU))
    assert torch.equal(torch.cat([b.x_BCZYX for b in batches]), torch.cat([b.x_BCZYX for b in alone]))


@pytest.mark.parametrize("rule", [{"plane": "shape"}, {"plane": "spacing"}, {"crop": "whole"}])
def test_evaluation_shows_what_its_rule_says(ellipsoids: Path, rule: dict[str, str]) -> None:
    corpus, reader = Corpus.open(ellipsoids), ShardReader()
    data = config(evaluation=EvaluationConfig(**rule))
    for batch in evaluation_batches(corpus, corpus.samples, data, batch_size=3, device=CPU):
        for position, x in zip(batch.positions_B, batch.x_BCZYX, strict=True):
            sample = corpus.samples[position]
            params = centre_params(sample.shape, SIZE, spacing=sample.spacing, **({"plane": "spacing"} | rule))
            expected = augment_volume(reader.read(sample), params, intensity_window(sample, "foreground"), SIZE)
            assert (x[0] - expected.x_DHW).abs().max() < 1e-4


@pytest.mark.parametrize(("world", "batch_size"), [(2, 2), (3, 4)])
def test_evaluation_over_ranks_gives_every_sample_once_and_no_other(ellipsoids: Path, world: int, batch_size: int) -> None:
    """Seven samples, real gloo ranks."""

    def evaluate(rank: int) -> dict[int, tuple[str, bytes]]:
        torch.distributed.init_process_group("gloo")
        corpus = Corpus.open(ellipsoids, "size")
        batches = evaluation_batches(
            corpus, corpus.samples, config(), batch_size=batch_size, device=CPU, rank=rank, world=world
        )
        mine = list(batches)
        assert sum(len(batch.keys) for batch in mine) == len(by_position(mine)) == len(range(rank, 7, world))
        parts: list[dict[int, tuple[str, bytes]]] = [{}] * world
        torch.distributed.all_gather_object(parts, by_position(mine))
        assert sorted(position for part in parts for position in part) == list(range(7))
        return {position: sample for part in parts for position, sample in part.items()}

    corpus = Corpus.open(ellipsoids, "size")
    alone = by_position(list(evaluation_batches(corpus, corpus.samples, config(), batch_size=4, device=CPU)))
    assert run_ranks(evaluate, world) == [alone] * world


def test_a_rank_without_samples_gives_no_batch(ellipsoids: Path) -> None:
    corpus = Corpus.open(ellipsoids)
    assert list(evaluation_batches(corpus, corpus.samples, config(), batch_size=4, device=CPU, rank=8, world=9)) == []


def test_evaluation_of_nothing_is_empty(ellipsoids: Path) -> None:
    assert list(evaluation_batches(Corpus.open(ellipsoids), [], config(), batch_size=4, device=CPU)) == []


def test_evaluation_replaces_nothing(own_ellipsoids: Path) -> None:
    corpus = Corpus.open(own_ellipsoids)
    damage_payload(corpus.samples[5])
    with pytest.raises(UserError, match=r"no readable sample to serve: vol005 in train-000001.tar"):
        list(evaluation_batches(corpus, corpus.samples, config(skip_budget=9), batch_size=2, device=CPU))


def test_an_evaluation_that_is_not_strict_marks_what_it_lacks(own_ellipsoids: Path) -> None:
    corpus = Corpus.open(own_ellipsoids)
    whole = list(evaluation_batches(corpus, corpus.samples, config(), batch_size=4, device=CPU))
    damage_payload(corpus.samples[5])
    batches = list(evaluation_batches(corpus, corpus.samples, config(), batch_size=4, device=CPU, strict=False))
    valid = torch.cat([batch.valid_B for batch in batches])
    assert valid.logical_not().nonzero().flatten().tolist() == [5]
    assert [key for batch in batches for key in batch.keys] == [sample.key for sample in corpus.samples]
    assert [(skip.position, skip.key) for batch in batches for skip in batch.skips] == [(5, "vol005")]
    x, expected = (torch.cat([batch.x_BCZYX for batch in of]) for of in (batches, whole))
    assert x[valid].equal(expected[valid])
    assert not x[5].any()


def test_a_survey_leaves_out_what_it_cannot_read(own_ellipsoids: Path, caplog: pytest.LogCaptureFixture) -> None:
    corpus = Corpus.open(own_ellipsoids)
    whole = foreground_tokens(corpus, corpus.samples, config(), (4, 4, 4))
    damage_payload(corpus.samples[5])
    assert foreground_tokens(corpus, corpus.samples, config(), (4, 4, 4)).tolist() == np.delete(whole, 5).tolist()
    assert "left out vol005 in train-000001.tar" in caplog.text
    with pytest.raises(UserError, match="no readable sample to count tokens of: vol005"):
        foreground_tokens(corpus, [corpus.samples[5]], config(), (4, 4, 4))


def test_impossible_requests_are_user_errors(ellipsoids: Path) -> None:
    with pytest.raises(UserError, match="does not divide"):
        loader(ellipsoids, global_batch=8, world=3)
    with pytest.raises(UserError, match=r"data\.device=cpu"):
        loader(ellipsoids, config(device="gpu"))
    corpus = Corpus.open(ellipsoids)
    with pytest.raises(UserError, match="no volume to train on"):
        TrainLoader(corpus, [], config(), seed=0, global_batch=1, accumulation=1, rank=0, world=1, device=CPU)
