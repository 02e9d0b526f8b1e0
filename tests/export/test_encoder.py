"""The exported encoder gives what evaluation sees of the same scan. Without DeepSpeed and DALI: tests/test_wheel.py."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import mri_fm
from mri_fm.config import load_config
from mri_fm.data.corpus import Corpus
from mri_fm.data.loader import evaluation_batches
from mri_fm.data.plan import EvaluationPlan
from mri_fm.data.reader import open_reader
from mri_fm.data.source import SampleSource, Status, graph_inputs
from mri_fm.engine.weights import load_objective
from mri_fm.errors import UserError
from mri_fm.evaluate.embed import embed
from mri_fm.export.encoder import Encoder, load_encoder
from mri_fm.export.run import Request, export_run
from mri_fm.export.spec import InputScan
from mri_fm.volume.prepare import prepare_files
from mri_fm.volume.processing import Processing
from mri_fm.volume.read import read_volume
from preprocessing.build import Spec, build
from tests.export.conftest import configure, write_run


def scans(corpus: Path) -> dict[str, Path]:
    """Key of each volume and the raw file behind it."""
    rows = pq.read_table(corpus / "private/ledger.parquet").to_pylist()
    return {row["key"]: corpus.parent / "raw" / row["source_path"] for row in rows if row["decision"] == "accepted"}


@pytest.mark.parametrize("statistics", ["foreground", "volume"])
def test_the_array_is_bitwise_that_of_corpus_and_evaluation_loader(statistics: str, corpus: Path, encoder: Encoder) -> None:
    words = [f"data.corpus={corpus}", "run.dir=x", "data.size=[16,32,32]", f"data.statistics={statistics}"]
    config = load_config("jepa", words).data
    opened, spec = Corpus.open(corpus), dataclasses.replace(encoder.exported.spec, statistics=statistics)
    plan = EvaluationPlan(len(opened.samples), config.size, config.evaluation, 0, 1)
    loader = SampleSource(opened.samples, plan, config.statistics, open_reader(opened.storage, config))
    for number, sample in enumerate(opened.samples):
        scan = InputScan(encoder.prepare(scans(corpus)[sample.key]).prepared, spec)
        ours = graph_inputs(scan.prepared.crop.voxels, scan.params, scan.window, Status(number, number, ()))
        theirs = loader.fetch(number)
        assert ours[0].dtype == theirs[0].dtype == np.int16
        assert all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("processing", [Processing(resample=6.0), Processing(n4=True)])
def test_scans_are_processed_as_the_corpus_was(processing: Processing, corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    shutil.copy(next(iter(scans(corpus).values())), tmp_path / "raw")
    build(tmp_path / "raw", tmp_path / "corpus", Spec(val_fraction=0.0, processing=processing))
    run = write_run(tmp_path / "run", configure(tmp_path / "run", tmp_path / "corpus"))
    encoder = load_encoder(export_run(Request(run, tmp_path / "encoder")))
    ((_, scan),) = scans(tmp_path / "corpus").items()
    opened = Corpus.open(tmp_path / "corpus")
    config = load_config("jepa", [f"data.corpus={tmp_path / 'corpus'}", "run.dir=x"]).data
    payload = open_reader(opened.storage, config).read(opened.samples[0])
    assert np.array_equal(encoder.prepare(scan).prepared.crop.voxels, payload)
    assert np.array_equal(encoder.prepare(read_volume(scan)).prepared.crop.voxels, payload)
    untreated = prepare_files([scan], series=False, max_spacing=6.5).crop.voxels
    assert not np.array_equal(untreated, payload)


def test_input_and_embedding_are_those_of_evaluation(corpus: Path, run: Path, encoder: Encoder) -> None:
    opened, loaded = Corpus.open(corpus), load_objective(run)
    keys = [sample.key for sample in opened.samples]
    paths = [scans(corpus)[key] for key in keys]

    def batches():
        return evaluation_batches(opened, opened.samples, loaded.config.data, batch_size=4, device=torch.device("cpu"))

    theirs = torch.cat([batch.x_BCZYX[:, 0] for batch in batches()])
    ours = torch.stack([encoder.prepare(path).tensor() for path in paths])
    torch.testing.assert_close(ours, theirs, atol=5e-6, rtol=0)  # DALI adds in another order
    parts = embed({"teacher": loaded.objective.encoder()}, batches(), keys, torch.device("cpu"), readouts=["pooled"])
    pooled = torch.cat([part["teacher/pooled"] for _, part in parts]).numpy()
    embedded_SD = encoder.embed(paths, batch_size=3)
    assert (embedded_SD.dtype, embedded_SD.shape) == (torch.float32, (8, 24))
    np.testing.assert_allclose(embedded_SD.numpy(), pooled, atol=1e-5)


def test_one_scan_gives_one_vector_and_batches_do_not_matter(corpus: Path, encoder: Encoder) -> None:
    paths = list(scans(corpus).values())
    one = encoder.embed(str(paths[0]))
    assert (one.dtype, one.shape, encoder.width) == (torch.float32, (24,), 24)
    torch.testing.assert_close(encoder.embed(paths, batch_size=8)[0], one, atol=1e-6, rtol=0)
    torch.testing.assert_close(encoder.tokens(paths[0]).mean(0), one)
    assert encoder.embed([]).shape == (0, 24)


def test_storage_order_of_a_scan_does_not_matter(corpus: Path, encoder: Encoder, tmp_path: Path) -> None:
    path = next(iter(scans(corpus).values()))
    image = nibabel.load(path)
    turned = image.as_reoriented(np.array([[1, -1], [2, 1], [0, -1]]))
    nibabel.save(turned, tmp_path / "turned.nii")
    assert torch.equal(encoder.embed(path), encoder.embed(tmp_path / "turned.nii"))
    assert torch.equal(encoder.embed(path), encoder.embed(read_volume(path)))


def test_importing_the_package_loads_no_torch() -> None:
    code = "import mri_fm, sys; print([m for m in ('torch', 'numpy', 'nibabel', 'omegaconf') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    assert mri_fm.load_encoder is load_encoder
    with pytest.raises(AttributeError, match="no attribute 'load_decoder'"):
        _ = mri_fm.load_decoder  # type: ignore[attr-defined]


def test_drop_path_is_left_behind(encoder: Encoder) -> None:
    assert encoder.exported.model.drop_path == 0.1
    encoder.network.train()
    assert encoder.network(torch.zeros(1, 1, 16, 32, 32)).shape == (1, encoder.network.num_tokens, 24)
    encoder.network.eval()


def test_scans_that_are_none_are_refused_by_name(encoder: Encoder, corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.nii").write_bytes(b"x" * 1000)
    for path, reason in {"empty": "without DICOM", "broken.nii": "not_readable", "absent.nii": "link to nowhere"}.items():
        with pytest.raises(UserError, match=rf"{path} is refused: .*{reason}"):
            encoder.embed(tmp_path / path)
    with pytest.raises(UserError, match="batch_size=0"):
        encoder.embed([tmp_path / "empty"], batch_size=0)


def test_an_encoder_that_gives_no_numbers_is_named(exported: Path, corpus: Path) -> None:
    broken = load_encoder(exported)
    torch.nn.init.constant_(broken.network.norm.weight, float("nan"))
    with pytest.raises(UserError, match="not finite"):
        broken.embed(next(iter(scans(corpus).values())))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_the_gpu_gives_the_same_embedding(corpus: Path, exported: Path) -> None:
    paths = list(scans(corpus).values())
    here = load_encoder(exported).embed(paths)
    there = load_encoder(exported).cuda().embed(paths)
    assert there.device.type == "cpu"
    torch.testing.assert_close(there, here, atol=1e-3, rtol=1e-3)
