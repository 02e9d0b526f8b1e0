"""Shards against the tools that will read them: tarfile, DALI's own indexer, webdataset."""

import json
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset
import xxhash

from mri_fm.data.codecs import CODECS, Codec
from preprocessing.shards import Sample, encode, write_shard


def samples(count: int = 5) -> list[Sample]:
    rng = np.random.default_rng(0)
    shapes = [tuple(int(n) for n in rng.integers(3, 9, 3)) for _ in range(count)]
    return [
        Sample(f"k{i:02d}", rng.integers(0, 32767, s).astype(np.int16), {"spacing": [1, 2, 3]}) for i, s in enumerate(shapes)
    ]


every_codec = pytest.mark.parametrize("codec", CODECS.values(), ids=lambda codec: codec.name)


@every_codec
def test_index_equals_dalis(tmp_path: Path, codec: Codec) -> None:
    write_shard(tmp_path / "train-000000.tar", samples(), codec)
    tool = Path(sys.executable).parent / "wds2idx"
    theirs = tmp_path / "theirs.idx"
    subprocess.run([sys.executable, tool, tmp_path / "train-000000.tar", theirs], check=True, capture_output=True)
    assert (tmp_path / "train-000000.idx").read_text() == theirs.read_text()


@every_codec
def test_payload_is_found_by_offset_and_size(tmp_path: Path, codec: Codec) -> None:
    path = tmp_path / "train-000000.tar"
    payloads = write_shard(path, samples(), codec)
    blob = path.read_bytes()
    for sample, payload in zip(samples(), payloads, strict=True):
        raw = blob[payload.offset : payload.offset + payload.size]
        assert payload.key == sample.key
        assert payload.checksum == xxhash.xxh3_64_hexdigest(raw)
        assert np.array_equal(codec.decode(raw, sample.voxels.shape), sample.voxels)


@every_codec
def test_webdataset_reads_it(tmp_path: Path, codec: Codec) -> None:
    path = tmp_path / "train-000000.tar"
    write_shard(path, samples(), codec)
    read = list(webdataset.WebDataset(str(path), shardshuffle=False))
    assert [r["__key__"] for r in read] == [s.key for s in samples()]
    for got, sample in zip(read, samples(), strict=True):
        shape = np.frombuffer(got["shape"], "<i4")
        assert np.array_equal(shape, sample.voxels.shape)
        assert np.array_equal(codec.decode(got[codec.extension], shape), sample.voxels)
        assert json.loads(got["json"]) == sample.info


@every_codec
def test_bytes_depend_on_samples_and_codec_alone(tmp_path: Path, codec: Codec) -> None:
    write_shard(tmp_path / "a.tar", samples(), codec)
    write_shard(tmp_path / "b.tar", iter(samples()), codec)
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    with tarfile.open(tmp_path / "a.tar") as archive:
        assert {(m.mtime, m.uid, m.gid, m.uname) for m in archive} == {(0, 0, 0, "mri-fm")}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.idx", "a.tar", "b.idx", "b.tar"]


def test_a_failing_sample_leaves_no_shard(tmp_path: Path) -> None:
    def broken():
        yield samples()[0]
        raise OSError("the source vanished")

    with pytest.raises(OSError, match="vanished"):
        write_shard(tmp_path / "a.tar", broken())
    assert not (tmp_path / "a.tar").exists()
    write_shard(tmp_path / "a.tar", samples())
    assert (tmp_path / "a.tar").exists()


def test_the_json_is_sorted_and_holds_no_nan() -> None:
    voxels = np.ones((2, 2, 2), np.int16)
    assert encode(Sample("k", voxels, {"b": 1, "a": 2}))["json"] == b'{"a": 2, "b": 1}'
    with pytest.raises(ValueError, match="not JSON compliant"):
        encode(Sample("k", voxels, {"a": float("nan")}))
