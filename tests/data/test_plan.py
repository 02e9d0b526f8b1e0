"""What stands at a position when it holds more than a plain crop: views, contrasts of a session, crops that hold the brain."""

import os
from contextlib import suppress
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from mri_fm.config import DataConfig, load_config
from mri_fm.data.corpus import Corpus
from mri_fm.data.loader import Batch, TrainLoader
from mri_fm.data.plan import plan_training
from mri_fm.data.positions import row_of
from mri_fm.data.reader import BadSampleError, Fault, ShardReader
from mri_fm.errors import UserError

LAYOUT = {"seed": 1, "global_batch": 4, "accumulation": 1, "rank": 0, "world": 1}


def config(**options) -> DataConfig:
    return DataConfig(corpus="C", **({"size": [8, 16, 16]} | options))


def loader(root: Path, **options) -> TrainLoader:
    corpus = Corpus.open(root, "size")
    return TrainLoader(corpus, corpus.select("train"), config(**options), device=torch.device("cpu"), **LAYOUT)


def batches(root: Path, count: int, **options) -> list[Batch]:
    source = loader(root, **options)
    taken = list(islice(source, count))
    source.close()
    return taken


def test_the_first_view_is_the_stream_without_views_and_the_others_differ(ellipsoids: Path) -> None:
    for plain, viewed in zip(batches(ellipsoids, 3), batches(ellipsoids, 3, views=3), strict=True):
        assert viewed.x_BCZYX.shape == (12, 1, 8, 16, 16)
        assert viewed.x_BCZYX[::3].equal(plain.x_BCZYX)
        assert viewed.positions_B[::3].equal(plain.positions_B)
        assert viewed.group_position == plain.group_position
        assert viewed.keys == tuple(key for key in plain.keys for _ in range(3))
        rows = [row_of(number) for number in viewed.positions_B.tolist()]
        assert [(row.slot, row.view) for row in rows] == [(0, 0), (0, 1), (0, 2)] * 4
        assert [row.position for row in rows] == plain.positions_B.repeat_interleave(3).tolist()
        assert len({x.numpy().tobytes() for x in viewed.x_BCZYX}) == 12
        assert viewed.valid_B.all()


def test_the_views_of_a_position_share_one_read(ellipsoids: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, keys = ShardReader.read, []

    def counted(reader: ShardReader, sample) -> np.ndarray:
        keys.append(sample.key)
        return read(reader, sample)

    monkeypatch.setattr(ShardReader, "read", counted)
    served = batches(ellipsoids, 2, views=3)
    assert keys[:8] == [key for batch in served for key in batch.keys[::3]]


def test_slots_carry_the_contrasts_of_a_session_and_say_which_repeat(sessions: Path) -> None:
    samples = {sample.key: sample for sample in Corpus.open(sessions, "size").samples}
    subjects = set()
    for batch in batches(sessions, 3, session_contrasts=2):
        for first in range(0, 8, 2):
            shown = [samples[key] for key in batch.keys[first : first + 2]]
            assert shown[0].subject == shown[1].subject
            alone = shown[0].subject == "s3"
            assert batch.contrasts[first : first + 2] == (("T1", "T1") if alone else ("T1", "T2"))
            assert batch.valid_B[first : first + 2].tolist() == [True, not alone]
            assert not batch.x_BCZYX[first].equal(batch.x_BCZYX[first + 1])
            subjects.add(shown[0].subject)
    assert subjects == {"s0", "s1", "s2", "s3"}


def test_every_session_comes_once_per_epoch(sessions: Path) -> None:
    samples = {sample.key: sample for sample in Corpus.open(sessions, "size").samples}
    for batch in batches(sessions, 3, session_contrasts=1):
        assert sorted(samples[key].subject for key in batch.keys) == ["s0", "s1", "s2", "s3"]


def test_a_bad_sample_is_replaced_in_all_views_and_marked(own_ellipsoids: Path) -> None:
    victim = Corpus.open(own_ellipsoids).samples[3]
    descriptor = os.open(victim.shard, os.O_WRONLY)
    os.pwrite(descriptor, b"\xff" * 64, victim.offset + 1000)
    os.close(descriptor)
    hit = 0
    for batch in batches(own_ellipsoids, 3, views=2, skip_budget=99):
        assert batch.keys[::2] == batch.keys[1::2]
        assert victim.key not in batch.keys
        assert batch.valid_B[::2].equal(batch.valid_B[1::2])
        bad = {row_of(row).position for row in batch.positions_B[~batch.valid_B].tolist()}
        assert {skip.position for skip in batch.skips} == bad
        hit += len(bad)
    assert hit >= 1


@pytest.mark.parametrize("workers", [0, 2])
def test_a_read_that_fails_once_leaves_no_pair_of_different_volumes_unmarked(
    ellipsoids: Path, tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One process meets the fault; with workers the views of a position may be read by two."""
    read, victim = ShardReader.read, batches(ellipsoids, 1)[0].keys[1]

    def failing_once(reader: ShardReader, sample) -> np.ndarray:
        if sample.key == victim:
            with suppress(FileExistsError):
                (tmp_path / "failed").mkdir()
                raise BadSampleError(Fault.UNREADABLE)
        return read(reader, sample)

    monkeypatch.setattr(ShardReader, "read", failing_once)
    (batch,) = batches(ellipsoids, 1, views=2, skip_budget=99, workers=workers)
    assert batch.valid_B.tolist() == [True, True, False, False, True, True, True, True]
    if workers == 0:
        assert batch.keys[2] == batch.keys[3] != victim


def test_crops_hold_the_foreground_that_is_asked_for(ellipsoids: Path) -> None:
    corpus = Corpus.open(ellipsoids, "size")
    shares = {}
    for least in (0.0, 0.93):
        data = config(crop_foreground=least)
        plan = plan_training(corpus.samples, data, steps=None, **LAYOUT)
        found = []
        for position in range(40):
            sample = corpus.samples[plan.candidate(position, 0)]
            voxels = ShardReader(corpus.storage).read(sample)
            params = plan.params(position, sample, voxels)
            inside = voxels[tuple(slice(s, s + e) for s, e in zip(params.start, params.extent, strict=True))]
            found.append(np.count_nonzero(inside) / np.count_nonzero(voxels))
        shares[least] = min(found)
    assert shares[0.0] < 0.9
    assert shares[0.93] >= 0.93


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("data.views=0", r"data\.views=0 must be between 1 and 256"),
        ("data.session_contrasts=-1", r"data\.session_contrasts=-1 must be between 0 \(off\) and 256"),
        ("data.crop_foreground=1.5", r"data\.crop_foreground=1\.5 must be in \[0, 1\]"),
    ],
)
def test_numbers_out_of_range_are_user_errors(word: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config("mae", ["data.corpus=C", "run.dir=R", word])


def test_sessions_are_not_mixed_by_contrast() -> None:
    with pytest.raises(UserError, match=r"of which a session has several: set data\.session_contrasts=0"):
        load_config("mae", ["data.corpus=C", "run.dir=R", "data.session_contrasts=2", "data.mixture_by=[contrast]"])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_position_restores_the_stream_with_the_geometry_on_the_gpu(ellipsoids: Path) -> None:
    whole = batches(ellipsoids, 3, views=2)
    corpus = Corpus.open(ellipsoids, "size")
    data = config(views=2, device="gpu")
    source = TrainLoader(corpus, corpus.select("train"), data, device=torch.device("cuda", 0), start_step=2, **LAYOUT)
    late = next(source)
    source.close()
    assert late.keys == whole[2].keys
    assert late.positions_B.tolist() == whole[2].positions_B.tolist()
    assert (late.x_BCZYX.cpu() - whole[2].x_BCZYX).abs().max() < 1e-3
