"""`mri-fm embed`: one row for each scan, whatever is wrong with the others."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import nibabel
import numpy as np
import pyarrow.parquet as pq
import pytest

from mri_fm.cli import ENCODER_VARIABLE, embed_folder, parse
from mri_fm.errors import UserError
from mri_fm.export.encoder import Encoder
from mri_fm.export.plausible import extent_mm
from tests.corpora import resampled, template

ROOT = Path(__file__).parents[2]


def save(path: Path, array: np.ndarray, spacing: tuple[float, float, float]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.diag([*spacing, 1.0])), path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good scan, and of each kind of bad one one."""
    root = tmp_path_factory.mktemp("scans")
    good = resampled((4, 4, 4))
    array, spacing = np.asarray(good.dataobj), (4.0, 4.0, 4.0)
    (root / "deep/er").mkdir(parents=True)
    nibabel.save(good, root / "deep/er/good.nii.gz")
    save(root / "small.nii", array, (2.0, 2.0, 2.0))
    save(root / "large.nii", array, (6.0, 6.0, 6.0))
    save(root / "ct.nii", np.where(array > 0, array // 5, -1000).astype(np.int16), spacing)
    save(root / "labels.nii", (array // 20).astype(np.uint8), spacing)
    (root / "cut.nii.gz").write_bytes((root / "deep/er/good.nii.gz").read_bytes()[:2000])
    (root / "notes.txt").write_text("not a scan")
    return root


@pytest.fixture(scope="module")
def rows(folder: Path, exported: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    out = tmp_path_factory.mktemp("tables") / "new/table.parquet"
    embed_folder(parse(["embed", str(folder), "--encoder", str(exported), "--out", str(out), "--batch-size", "2"]))
    assert [path.name for path in out.parent.iterdir()] == ["table.parquet"]
    return {row["source_path"]: row for row in pq.read_table(out).to_pylist()}


def test_every_scan_has_a_row_and_bad_ones_take_nothing_from_the_others(rows: dict[str, dict]) -> None:
    decisions = {name: (row["decision"], row["code"]) for name, row in rows.items()}
    assert decisions == {
        "deep/er/good.nii.gz": ("accepted", ""), "small.nii": ("accepted", ""), "large.nii": ("accepted", ""),
        "ct.nii": ("refused", "not_mr"), "labels.nii": ("refused", "label"), "cut.nii.gz": ("refused", "truncated"),
    }  # fmt: skip
    for row in rows.values():
        assert (row["embedding"] is None) == (row["decision"] == "refused") == bool(row["reason"])


def test_the_vector_is_that_of_embed(rows: dict[str, dict], folder: Path, encoder: Encoder) -> None:
    row = rows["deep/er/good.nii.gz"]
    expected = encoder.embed(folder / "deep/er/good.nii.gz")
    np.testing.assert_allclose(row["embedding"], expected.numpy(), atol=1e-6)
    scan = encoder.prepare(folder / "deep/er/good.nii.gz").prepared
    assert row["shape"] == list(scan.crop.voxels.shape)
    assert (row["spacing"], row["orientation"], row["warning"]) == ([4.0] * 3, "RAS", "")
    assert row["content_hash"] == scan.canonical.content_hash()


def test_an_unusual_extent_is_named_and_embedded(rows: dict[str, dict], folder: Path, encoder: Encoder) -> None:
    assert "the head covers 76 mm along z, 70 mm along x, not 90 to 220" in rows["small.nii"]["warning"]
    assert "along y" in rows["large.nii"]["warning"]
    with pytest.warns(UserWarning, match=r"large.nii: the head covers \d+ mm along z, \d+ mm along y"):
        encoder.embed(folder / "large.nii")
    with pytest.raises(UserError, match=r"ct.nii is refused: not_mr: CT"):
        encoder.embed(folder / "ct.nii")


def test_the_extent_is_that_of_the_object(encoder: Encoder, tmp_path: Path) -> None:
    image = template()
    nibabel.save(image, tmp_path / "template.nii.gz")
    present = np.asarray(image.dataobj) > 0
    expected = [np.ptp(np.flatnonzero(present.any(axis=tuple({0, 1, 2} - {axis})))) + 1 for axis in (2, 1, 0)]
    assert extent_mm(encoder.prepare(tmp_path / "template.nii.gz").prepared) == pytest.approx(expected, abs=3)


def test_the_metadata_names_the_encoder(folder: Path, exported: Path, encoder: Encoder, tmp_path: Path) -> None:
    alone = tmp_path / "scans"
    alone.mkdir()
    shutil.copyfile(folder / "cut.nii.gz", alone / "cut.nii.gz")
    for _ in range(2):  # the table of the first time is no scan of the second
        embed_folder(parse(["embed", str(alone), "--encoder", str(exported), "--out", str(alone / "t.parquet")]))
    table = pq.read_table(alone / "t.parquet")
    assert table.schema.metadata[b"encoder_sha256"].decode() == encoder.exported.sha256
    assert table.num_rows == 1


def test_a_scan_that_the_machine_cannot_read_is_named_and_no_place_to_write_is_blamed(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "scan.nii").symlink_to("/proc/self/mem")  # it opens, and reading its beginning is an error of input/output
    out = tmp_path / "table.parquet"
    with pytest.raises(UserError, match=r"scan\.nii cannot be read \(.*Input/output error\): mend that"):
        embed_folder(parse(["embed", str(tmp_path), "--encoder", str(exported), "--out", str(out)]))
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere", "--encoder", "E", "--out", "t"], "no folder nowhere"),
        (["EMPTY", "--encoder", "E", "--out", "t"], "no scan in"),
        (["SCANS", "--encoder", "EMPTY", "--out", "t"], "config.json: give a folder that"),
        (["SCANS", "--encoder", "E", "--out", "EMPTY"], "is a folder; name a parquet file"),
        (["SCANS", "--encoder", "E", "--out", "t", "--device", "nonsense"], "--device nonsense cannot be used"),
        (["SCANS", "--encoder", "E", "--out", "t", "--batch-size", "0"], "--batch-size 0"),
        (["SCANS", "--out", "t"], f"give --encoder DIR.*{ENCODER_VARIABLE}"),
    ],
)
def test_mistakes_end_in_one_line(
    words: list[str], message: str, folder: Path, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(ENCODER_VARIABLE, raising=False)
    places = {"EMPTY": tmp_path, "SCANS": folder, "E": exported, "t": tmp_path / "t.parquet"}
    with pytest.raises(UserError, match=message) as caught:
        embed_folder(parse(["embed", *(str(places.get(word, word)) for word in words)]))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_the_script_that_the_package_installs_is_this_command(tmp_path: Path) -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, _, name = scripts["mri-fm"].partition(":")
    assert callable(getattr(importlib.import_module(module), name))
    command = [sys.executable, "-m", module, "embed", str(tmp_path), "--out", "t", "--encoder", "E"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: no scan in")
