"""Nothing personal leaves the source, whatever format and wherever in it."""

import base64
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
from PIL import Image, PngImagePlugin

from preprocessing.build import build
from preprocessing.report import draw_report
from tests.preprocessing.personal import lay_out, leaks, write_people
from tests.preprocessing.test_build import ledger


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bool], Path]:
    folder = tmp_path_factory.mktemp("Zyxwell")
    expected = lay_out(folder / "raw")
    build(folder / "raw", folder / "corpus", report=draw_report)
    return expected, folder / "corpus"


def test_no_byte_of_the_corpus_names_anybody(built: tuple[dict[str, bool], Path]) -> None:
    assert leaks(built[1]) == []


def test_every_format_was_there_to_be_searched(built: tuple[dict[str, bool], Path]) -> None:
    expected, corpus = built
    rows = ledger(corpus)
    decisions = {path: rows[path]["decision"] == "accepted" for path in expected}
    assert decisions == expected, rows
    subjects = pq.read_table(corpus / "manifest.parquet")["subject"].to_pylist()
    assert all(subject.startswith("anon-") for subject in subjects)


def _plant_zarr(folder: Path) -> None:
    array = zarr.create_array(folder / "a.zarr", shape=(64,), chunks=(64,), dtype="uint8")
    array[:] = np.frombuffer(b"Zyxwell".ljust(64, b"\0"), np.uint8)


def _plant_tar(folder: Path) -> None:
    with tarfile.open(folder / "a.tar", "w") as archive:
        member = tarfile.TarInfo("x")
        member.size = 14
        archive.addfile(member, io.BytesIO("Zyxwell".encode("utf-16-le")))


def _plant_html(folder: Path) -> None:
    text, buffer = PngImagePlugin.PngInfo(), io.BytesIO()
    text.add_itxt("note", "Zyxwell", zip=True)
    Image.new("L", (2, 2)).save(buffer, "PNG", pnginfo=text)
    (folder / "a.html").write_text(f"<img src='data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}'>")


@pytest.mark.parametrize(
    "plant",
    [
        _plant_zarr,
        _plant_tar,
        _plant_html,
        lambda folder: pq.write_table(pa.table({"a": ["Zyxwell"] * 9}), folder / "a.parquet", compression="zstd"),
        lambda folder: (folder / "a.json").write_text(json.dumps("ZYXWELL")),
        lambda folder: (folder / "zyxwell").mkdir(),
    ],
)
def test_the_search_finds_what_is_packed(tmp_path: Path, plant: object) -> None:
    assert callable(plant)
    plant(tmp_path)
    assert leaks(tmp_path)


def test_pseudonyms_outlive_the_corpus_with_its_key_and_no_other(tmp_path: Path) -> None:
    write_people(tmp_path / "raw")
    for name in ("one", "same", "other"):
        if name == "same":
            (tmp_path / "key").write_bytes((tmp_path / "one/private/key").read_bytes())
        build(tmp_path / "raw", tmp_path / name, key=tmp_path / "key" if name == "same" else None)
    one, same, other = (sorted(pq.read_table(tmp_path / n / "manifest.parquet")["subject"].to_pylist())
                        for n in ("one", "same", "other"))  # fmt: skip
    assert one == same
    assert not set(one) & set(other)
    assert build(tmp_path / "raw", tmp_path / "one", key=tmp_path / "key")[1] is False
    (tmp_path / "key").write_text("ab" * 32)
    assert build(tmp_path / "raw", tmp_path / "one", key=tmp_path / "key")[1] is True
