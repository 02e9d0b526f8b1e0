"""The archive of a real corpus against its shards."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mri_fm.data.corpus import Corpus
from mri_fm.data.loader import evaluation_batches
from mri_fm.data.reader import BadSampleError, Fault, ShardReader, open_reader
from mri_fm.data.storage import LocalStorage
from mri_fm.data.zarr_access import Archive, ArchiveReader
from mri_fm.errors import UserError
from preprocessing.archive import pyramid
from tests.data.test_loader import CPU, by_position, config, loader, take
from tests.s3 import S3Server


def copied(corpus: Path, folder: Path) -> Path:
    """A corpus without shards."""
    return Path(shutil.copytree(corpus, folder / "corpus", ignore=shutil.ignore_patterns("shards", "private")))


def test_every_crop_is_bitwise_the_payload_of_the_shards(corpus: Path) -> None:
    opened = Corpus.open(corpus, "size")
    shards, archive = ShardReader(), ArchiveReader(opened.storage)
    for sample in opened.samples:
        voxels = archive.read(sample)
        assert voxels.dtype == np.int16
        assert np.array_equal(voxels, shards.read(sample))


def test_an_evaluation_sees_the_same_input_from_the_archive_alone(corpus: Path, tmp_path: Path) -> None:
    without = copied(corpus, tmp_path)
    with pytest.raises(UserError, match=r"shards/.*\.tar is missing"):
        Corpus.open(without)
    batches = []
    for root, reader in ((corpus, "shards"), (without, "archive")):
        opened = Corpus.open(root, shards=reader == "shards")
        batches.append(list(evaluation_batches(opened, opened.samples, config(reader=reader), batch_size=3, device=CPU)))
    assert by_position(batches[0]) == by_position(batches[1])


def test_training_sees_the_same_stream_from_the_archive(corpus: Path) -> None:
    assert by_position(take(loader(corpus, config(reader="archive")), 2)) == by_position(take(loader(corpus), 2))


def test_the_archive_of_a_corpus_on_s3(corpus: Path) -> None:
    with S3Server() as server:
        opened = Corpus.open(server.upload(corpus), shards=False)
        sample = opened.samples[0]
        assert np.array_equal(
            open_reader(opened.storage, config(reader="archive")).read(sample),
            ArchiveReader(LocalStorage(str(corpus))).read(sample),
        )


def test_regions_and_levels_are_those_of_the_volume(corpus: Path) -> None:
    opened = Corpus.open(corpus, "size")
    archive, key = Archive(opened.storage), opened.samples[0].key
    canonical = archive.canonical(key)
    assert canonical.content_hash() == opened.samples[0].content_hash
    assert canonical.spacing == opened.samples[0].spacing
    region = (slice(3, 9), slice(5, 6), slice(10, 20))
    assert np.array_equal(archive.read(key, region), canonical.voxels[region])
    coarser = pyramid(canonical.voxels, canonical.spacing)[1][0]
    assert np.array_equal(archive.read(key, level=1), coarser)
    for missing in (lambda: archive.read("none"), lambda: archive.read(key, level=9)):
        with pytest.raises(OSError):
            missing()


def first_file(corpus: Path, key: str) -> Path:
    """The one shard file of a small volume's full level."""
    (path,) = (path for path in (corpus / "volumes.zarr" / key / "0").rglob("*") if path.is_file() and path.name != "zarr.json")
    return path


def scale(path: Path) -> None:
    content = json.loads(path.read_text())
    content["attributes"]["ome"]["multiscales"][0]["datasets"][0]["coordinateTransformations"][0]["scale"][0] += 1
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (lambda root, key: shutil.rmtree(root / "volumes.zarr" / key), Fault.UNREADABLE),
        (lambda root, key: first_file(root, key).unlink(), Fault.CHECKSUM),  # zarr fills what is missing with zeros
        (lambda root, key: first_file(root, key).write_bytes(b"x" * 100), Fault.UNREADABLE),
        (lambda root, key: scale(root / "volumes.zarr" / key / "zarr.json"), Fault.CHECKSUM),
    ],
    ids=["no image", "no voxels", "broken voxels", "another spacing"],
)
def test_a_damaged_archive_is_a_named_fault(
    corpus: Path, tmp_path: Path, damage: Callable[[Path, str], object], fault: Fault
) -> None:
    opened = Corpus.open(copied(corpus, tmp_path), shards=False)
    damage(tmp_path / "corpus", opened.samples[1].key)
    with pytest.raises(BadSampleError) as error:
        ArchiveReader(opened.storage).read(opened.samples[1])
    assert error.value.fault is fault


def test_another_crop_than_the_manifest_describes_is_a_fault(corpus: Path) -> None:
    opened = Corpus.open(corpus, "size")
    for change in ({"shape": (1, 2, 3)}, {"p01": opened.samples[0].p01 + 1}):
        with pytest.raises(BadSampleError) as error:
            ArchiveReader(opened.storage).read(dataclasses.replace(opened.samples[0], **change))
        assert error.value.fault is Fault.SHAPE
