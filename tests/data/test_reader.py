import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest

from mri_fm.data.corpus import Corpus
from mri_fm.data.reader import BadSampleError, Fault, ShardReader


def test_every_payload_comes_back(ellipsoids: Path) -> None:
    reader = ShardReader()
    for sample in Corpus.open(ellipsoids).samples:
        voxels = reader.read(sample)
        assert voxels.dtype == np.dtype("<i2")
        assert voxels.shape == sample.shape
        assert np.percentile(voxels[voxels > 0], 99) == pytest.approx(sample.p99)
    reader.close()


def fault(reader: ShardReader, sample) -> Fault:
    with pytest.raises(BadSampleError) as error:
        reader.read(sample)
    return error.value.fault


def test_each_fault_has_its_name(own_ellipsoids: Path) -> None:
    sample = Corpus.open(own_ellipsoids).samples[0]
    reader = ShardReader()
    assert fault(reader, dataclasses.replace(sample, shape=(1, 2, 3))) is Fault.SHAPE
    assert fault(reader, dataclasses.replace(sample, checksum="0" * 16)) is Fault.CHECKSUM
    assert fault(reader, dataclasses.replace(sample, shard=own_ellipsoids / "none.tar")) is Fault.UNREADABLE
    os.truncate(sample.shard, sample.offset + sample.size - 1)
    assert fault(reader, sample) is Fault.SHORT_READ
    assert all(kind.describe() for kind in Fault)
    reader.close()


def open_files_under(root: Path) -> int:
    links = [os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")]
    return sum(link.startswith(str(root.resolve())) for link in links)


def test_descriptors_are_few_and_closed(own_ellipsoids: Path) -> None:
    sample = Corpus.open(own_ellipsoids).samples[0]
    reader = ShardReader()
    for number in range(100):
        link = own_ellipsoids / f"copy{number}.tar"
        link.hardlink_to(sample.shard)
        reader.read(dataclasses.replace(sample, shard=link))
    assert open_files_under(own_ellipsoids) == 64
    reader.close()
    assert open_files_under(own_ellipsoids) == 0
