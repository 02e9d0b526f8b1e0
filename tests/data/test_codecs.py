"""Codecs: the same voxels back, the same bytes always, and inside a DALI graph."""

import importlib.util
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lz4.block
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from numcodecs import blosc
from nvidia.dali import fn, pipeline_def
from nvidia.dali import types as dali

from mri_fm.data import pipeline
from mri_fm.data.codecs import BLOSC, CODECS, LZ4, RAW, Codec, find_codec, lz4_blocks
from mri_fm.data.corpus import Corpus
from mri_fm.data.evaluation import EvaluationConfig
from mri_fm.data.inflate import InflatingSource
from mri_fm.data.loader import evaluation_batches
from mri_fm.data.plan import EvaluationPlan
from mri_fm.data.reader import ShardReader
from mri_fm.data.source import SampleSource, Status
from mri_fm.errors import UserError
from tests.data.conftest import SHAPES, volume, write_corpus
from tests.data.test_loader import CPU, SIZE, by_position, config, loader, take

every_codec = pytest.mark.parametrize("codec", CODECS.values(), ids=lambda codec: codec.name)
compressed = pytest.mark.parametrize("codec", [LZ4, BLOSC], ids=lambda codec: codec.name)


@every_codec
@settings(max_examples=50, deadline=None)
@given(
    voxels=st_numpy.arrays(np.int16, st_numpy.array_shapes(min_dims=3, max_dims=3, max_side=9), elements=st.integers(0, 32767))
)
def test_voxels_come_back(codec: Codec, voxels: np.ndarray) -> None:
    payload = codec.encode(voxels)
    decoded = codec.decode(payload, voxels.shape)
    assert decoded.dtype == np.dtype("<i2")
    assert np.array_equal(decoded, voxels)
    assert codec.encode(np.asfortranarray(voxels)) == payload


@every_codec
def test_bytes_are_the_same_in_every_thread(codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blosc with threads of its own, which it starts in the main thread alone, would not promise that."""
    rng = np.random.default_rng(0)
    voxels = (rng.integers(0, 3000, (16, 256, 256)) * (rng.random((16, 256, 256)) < 0.5)).astype(np.int16)
    monkeypatch.setattr(blosc, "use_threads", True)
    previous = blosc.set_nthreads(4)
    try:
        here = {codec.encode(voxels) for _ in range(4 if codec is BLOSC else 1)}
    finally:
        blosc.set_nthreads(previous)
    with ThreadPoolExecutor(2) as pool:
        assert set(pool.map(codec.encode, [voxels] * 2)) == here
    assert len(here) == 1


@compressed
def test_a_payload_that_is_none_is_refused(codec: Codec) -> None:
    payload = codec.encode(volume(0, SHAPES[0]))
    with pytest.raises((ValueError, RuntimeError)):
        codec.decode(payload[:-7], SHAPES[0])
    with pytest.raises((ValueError, RuntimeError)):
        codec.decode(payload, (3, 4, 5))
    with pytest.raises((ValueError, RuntimeError)):
        codec.decode(b"", SHAPES[0])


def test_an_lz4_payload_is_one_plain_block_per_plane() -> None:
    voxels = volume(1, SHAPES[0])
    blocks, sizes = lz4_blocks(LZ4.encode(voxels), len(voxels))
    start = 0
    for plane, size in zip(voxels, sizes, strict=True):
        assert lz4.block.decompress(blocks[start : start + size].tobytes(), uncompressed_size=plane.nbytes) == plane.tobytes()
        start += size


@pytest.fixture(params=[LZ4, BLOSC], ids=lambda codec: codec.name)
def packed(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The ellipsoids, compressed."""
    write_corpus(tmp_path / "packed", request.param)
    return tmp_path / "packed"


def test_training_and_evaluation_see_the_voxels_of_the_raw_corpus(packed: Path, ellipsoids: Path) -> None:
    assert by_position(take(loader(packed), 3)) == by_position(take(loader(ellipsoids), 3))
    batches = []
    for place in (packed, ellipsoids):
        corpus = Corpus.open(place)
        batches.append(list(evaluation_batches(corpus, corpus.samples, config(), batch_size=3, device=CPU)))
    assert by_position(batches[0]) == by_position(batches[1])


def test_a_payload_is_decoded_inside_a_dali_graph(packed: Path, ellipsoids: Path) -> None:
    """Read by DALI's own reader and decoded by its python_function, as a pipeline without our reader would."""
    corpus = Corpus.open(packed)
    codec, first = CODECS[corpus.samples[0].codec], corpus.samples[0].shard

    @pipeline_def(batch_size=3, num_threads=1, device_id=None)
    def graph() -> object:
        index = str(first.with_suffix(".idx"))
        payload, shape = fn.readers.webdataset(
            paths=[str(first)], index_paths=[index], ext=[codec.extension, "shape"], dtypes=[dali.UINT8, dali.INT32],
            missing_component_behavior="error",
        )  # fmt: skip
        return fn.python_function(payload, shape, function=lambda data, axes: codec.decode(data.tobytes(), axes).copy())

    (volumes,) = graph().run()
    reader, raw = ShardReader(), Corpus.open(ellipsoids).samples[:3]
    for decoded, sample in zip(volumes, raw, strict=True):
        assert np.array_equal(np.array(decoded), reader.read(sample))


def lz4_source(folder: Path, kind: type[SampleSource]) -> SampleSource:
    corpus = Corpus.open(folder)
    plan = EvaluationPlan(len(corpus.samples), SIZE, EvaluationConfig(), rank=0, world=1)
    return kind(corpus.samples, plan, "foreground", ShardReader())


def test_blocks_for_a_gpu_inflate_to_the_voxels_and_change_nothing_else(tmp_path: Path) -> None:
    write_corpus(tmp_path / "packed", LZ4)
    plain, inflating = (lz4_source(tmp_path / "packed", kind) for kind in (SampleSource, InflatingSource))
    for number in range(7):
        voxels, *rest = plain.fetch(number)
        blocks, sizes, plane, *others = inflating.fetch(number)
        assert np.array_equal(LZ4.decode(sizes.tobytes() + blocks.tobytes(), voxels.shape[:3]), voxels[..., 0])
        assert tuple(plane) == voxels.shape[1:]
        assert all(np.array_equal(one, other) for one, other in zip(rest, others, strict=True))
    source = lz4_source(tmp_path / "packed", InflatingSource)
    (tmp_path / "packed/shards/train-000000.tar").unlink()
    blocks, sizes, *_, status = source.fetch(0)
    assert Status.unpack(status).served == -1
    assert not LZ4.decode(sizes.tobytes() + blocks.tobytes(), SHAPES[0]).any()


def test_the_graph_that_inflates_is_one_that_dali_accepts(tmp_path: Path) -> None:
    """As far as a machine without a GPU can tell."""
    write_corpus(tmp_path / "packed", LZ4)
    source = lz4_source(tmp_path / "packed", InflatingSource)
    graph = pipeline._graph(source, "gpu", "foreground", False, None, True, batch_size=2, num_threads=1, device_id=None)
    assert b"decoders__Inflate" in graph.serialize()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_inflates_the_same_voxels(tmp_path: Path, ellipsoids: Path) -> None:
    write_corpus(tmp_path / "packed", LZ4)
    voxels = volume(0, SHAPES[0])
    blocks, sizes = lz4_blocks(LZ4.encode(voxels), len(voxels))

    @pipeline_def(batch_size=1, num_threads=1, device_id=0)
    def graph() -> object:
        given, chunk_sizes = fn.external_source(lambda: ([blocks], [sizes]), num_outputs=2)
        plane = {"shape": voxels.shape[1:], "dtype": dali.INT16, "check_output_size": True}
        return fn.decoders.inflate(given.gpu(), chunk_sizes=chunk_sizes, **plane)

    assert np.array_equal(np.array(graph().run()[0].as_cpu()[0]), voxels)
    batches = []
    for place, device in ((tmp_path / "packed", torch.device("cuda", 0)), (ellipsoids, CPU)):
        corpus = Corpus.open(place)
        batches += list(evaluation_batches(corpus, corpus.samples, config(), batch_size=7, device=device))
    assert (batches[0].x_BCZYX.cpu() - batches[1].x_BCZYX).abs().max() < 1e-3


def set_codec(root: Path, name: str | None) -> None:
    """Let the manifest name another codec, or, as before there was one, none."""
    table = pq.read_table(root / "manifest.parquet").to_pandas()
    changed = table.drop(columns="codec") if name is None else table.assign(codec=name)
    changed.to_parquet(root / "manifest.parquet")


def test_a_manifest_without_codecs_is_raw(own_ellipsoids: Path) -> None:
    set_codec(own_ellipsoids, None)
    assert {sample.codec for sample in Corpus.open(own_ellipsoids, "size").samples} == {RAW.name}


def test_a_codec_that_is_unknown_or_not_installed_is_one_line_before_training(
    own_ellipsoids: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_codec(own_ellipsoids, "zip")
    with pytest.raises(UserError, match=f"{own_ellipsoids}: 'zip' is no codec .* raw, lz4, blosc-lz4-shuffle$"):
        Corpus.open(own_ellipsoids, "size")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    set_codec(own_ellipsoids, "lz4")
    with pytest.raises(UserError, match=r"codec lz4 needs the package lz4, .* pip install lz4$"):
        Corpus.open(own_ellipsoids, "size")
    assert find_codec("raw") is RAW
