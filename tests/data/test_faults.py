"""Real files that break under a running loader, in each way, read by the rank and by workers."""

import os
import shutil
import tempfile
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from mri_fm.config import DataConfig
from mri_fm.data.corpus import Corpus, Sample
from mri_fm.data.loader import Batch, TrainLoader
from mri_fm.data.reader import ShardReader
from mri_fm.data.skips import Skip

STEPS = 5


def loader(root: Path, *, workers: int = 0, rank: int = 0, world: int = 1, views: int = 1) -> TrainLoader:
    corpus = Corpus.open(root)
    config = DataConfig(corpus="unused", size=[8, 16, 16], workers=workers, skip_budget=99, views=views)
    layout = {"seed": 1, "global_batch": 4, "accumulation": 1, "device": torch.device("cpu"), "prefetch": 1}
    return TrainLoader(corpus, corpus.select("train"), config, rank=rank, world=world, **layout)


def truncate(sample: Sample) -> None:
    os.truncate(sample.shard, sample.offset + sample.size // 2)


def flip(sample: Sample) -> None:
    with Path(sample.shard).open("r+b") as file:
        file.seek(sample.offset + 50)
        file.write(b"\xff" * 9)


def vanish(sample: Sample) -> None:
    Path(sample.shard).unlink()


def forbid(sample: Sample) -> None:
    Path(sample.shard).chmod(0)


def become_a_folder(sample: Sample) -> None:
    Path(sample.shard).unlink()
    Path(sample.shard).mkdir()


DAMAGE: dict[str, tuple[Callable[[Sample], None], str]] = {
    "truncated": (truncate, "the shard ends before"),
    "bytes flipped": (flip, "checksum differs"),
    "vanished": (vanish, "cannot be opened or read"),
    "forbidden": (forbid, "cannot be opened or read"),
    "a folder": (become_a_folder, "cannot be opened or read"),
}


def run(root: Path, damage: Callable[[Sample], None], **layout: int) -> tuple[dict[int, tuple[str, bytes]], set[Skip]]:
    """What a loader gives whose victim's shard breaks before it opens any: samples by position, and the skips."""
    source = loader(root, **layout)
    damage(Corpus.open(root).samples[4])
    batches = list(islice(source, STEPS))
    source.close()
    return by_position(batches), {skip for batch in batches for skip in batch.skips}


def by_position(batches: list[Batch]) -> dict[int, tuple[str, bytes]]:
    return {
        position: (key, x.numpy().tobytes())
        for batch in batches
        for position, key, x in zip(batch.positions_B.tolist(), batch.keys, batch.x_BCZYX, strict=True)
    }


@pytest.mark.parametrize("how", DAMAGE)
def test_a_bad_shard_is_skipped_by_name_and_replaced_the_same_way_everywhere(
    own_ellipsoids: Path, tmp_path: Path, how: str
) -> None:
    damage, reason = DAMAGE[how]
    if how == "forbidden" and os.geteuid() == 0:
        pytest.skip("root may read everything")
    source = loader(own_ellipsoids)
    sound = by_position(list(islice(source, STEPS)))
    source.close()
    given, skips = run(copy(own_ellipsoids, tmp_path / "1"), damage)
    assert skips
    hit = {skip.position for skip in skips}
    assert {position for position in sound if given[position] != sound[position]} == hit
    victims = {sample.key for sample in Corpus.open(own_ellipsoids).samples[3:6]}
    assert {skip.key for skip in skips} <= victims
    assert {skip.shard for skip in skips} == {"train-000001.tar"}
    assert all(reason in skip.reason for skip in skips)
    assert run(copy(own_ellipsoids, tmp_path / "2"), damage, workers=2) == (given, skips)
    parts = [run(copy(own_ellipsoids, tmp_path / f"3-{r}"), damage, workers=r, rank=r, world=2) for r in range(2)]
    assert (parts[0][0] | parts[1][0], parts[0][1] | parts[1][1]) == (given, skips)


@pytest.mark.skipif(os.geteuid() != 0, reason="for another user the test above shows it")
def test_root_gives_up_its_rights_to_be_refused(ellipsoids: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)  # pytest's own folders are root's alone
        root = copy(ellipsoids, Path(folder) / "corpus")
        source = loader(root)
        forbid(Corpus.open(root).samples[4])
        os.seteuid(65534)
        try:
            skips = [skip for batch in islice(source, STEPS) for skip in batch.skips]
        finally:
            os.seteuid(0)
        source.close()
    assert {skip.shard for skip in skips} == {"train-000001.tar"}
    assert all("cannot be opened or read" in skip.reason for skip in skips)


def copy(root: Path, to: Path) -> Path:
    return Path(shutil.copytree(root, to))


def test_a_wrong_shape_is_a_fault_of_the_sample(own_ellipsoids: Path) -> None:
    """The manifest itself is wrong: its checksum is that of the payload, its shape is not."""
    corpus = Corpus.open(own_ellipsoids)
    bad = corpus.samples[4].__class__(**{**corpus.samples[4].__dict__, "shape": (1, 2, 3)})
    samples = [bad if sample.key == bad.key else sample for sample in corpus.samples]
    config = DataConfig(corpus="unused", size=[8, 16, 16])
    layout = {"seed": 1, "global_batch": 4, "accumulation": 1, "device": torch.device("cpu"), "rank": 0, "world": 1}
    source = TrainLoader(corpus, samples, config, **layout)
    skips = [skip for batch in islice(source, STEPS) for skip in batch.skips]
    source.close()
    assert {(skip.key, skip.reason.split(" to ")[0]) for skip in skips} == {(bad.key, "the payload does not decode")}


def test_a_stale_descriptor_is_opened_again(ellipsoids: Path) -> None:
    """As after a file server came back: whatever was open answers with an error, once."""
    source = loader(ellipsoids)
    expected = by_position(list(islice(source, STEPS)))
    source.close()
    source = loader(ellipsoids)
    batches = [next(source)]
    for link in Path("/proc/self/fd").iterdir():
        if os.path.realpath(link).endswith(".tar"):
            os.close(int(link.name))
    batches += islice(source, STEPS - 1)
    source.close()
    assert by_position(batches) == expected
    assert not any(batch.skips for batch in batches)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_callable_never_raises(
    own_ellipsoids: Path, monkeypatch: pytest.MonkeyPatch, workers: int, capfd: pytest.CaptureFixture[str]
) -> None:
    """A bug that one sample alone brings out costs that sample, and its traceback is shown."""
    read = ShardReader.read

    def stumble(self: ShardReader, sample: Sample) -> np.ndarray:
        if sample.key == "vol004":
            raise ZeroDivisionError("on vol004")
        return read(self, sample)

    monkeypatch.setattr(ShardReader, "read", stumble)
    source = loader(own_ellipsoids, workers=workers)
    batches = list(islice(source, STEPS))
    source.close()
    assert len(by_position(batches)) == 4 * STEPS
    skips = [skip for batch in batches for skip in batch.skips]
    assert {skip.key for skip in skips} == {"vol004"}
    assert "own code failed" in skips[0].reason


def test_all_views_of_a_position_share_its_substitute(own_ellipsoids: Path) -> None:
    source = loader(own_ellipsoids, views=2)
    flip(Corpus.open(own_ellipsoids).samples[4])
    batches = list(islice(source, STEPS))
    source.close()
    assert any(batch.skips for batch in batches)
    for batch in batches:
        keys = np.array(batch.keys).reshape(4, 2)
        assert (keys[:, 0] == keys[:, 1]).all()
