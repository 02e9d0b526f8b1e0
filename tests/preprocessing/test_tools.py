"""The commands around a corpus: verify, scan, report, ledger."""

import json
import shutil
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from mri_fm.errors import UserError
from preprocessing import report, scan, verify
from preprocessing.build import Spec, build
from preprocessing.ledger import show
from preprocessing.place import Folder
from preprocessing.report import draw_report
from preprocessing.verify import problems
from tests.corpora import SPEC
from tests.preprocessing.test_build import contents, ledger, manifest, mixed_raw


@pytest.fixture
def copied(tmp_path: Path, corpus: Path) -> Path:
    shutil.copytree(corpus, tmp_path / "corpus")
    return tmp_path / "corpus"


def spoil(path: Path, at: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[at if at >= 0 else len(content) // 2] ^= 255
    path.write_bytes(content)


def test_a_whole_corpus_has_no_problem_with_its_ledger_and_without(copied: Path) -> None:
    assert list(problems(Folder(copied))) == []
    shutil.rmtree(copied / "private")
    assert list(problems(Folder(copied))) == []


@pytest.mark.parametrize(
    "name", ["shards/train-000000.tar", "shards/train-000000.idx", "manifest.parquet", "volumes.zarr/zarr.json"]
)
def test_a_changed_file_is_named(copied: Path, name: str) -> None:
    spoil(copied / name)
    assert f"{name}: missing or changed" in list(problems(Folder(copied)))


def test_an_image_that_is_changed_or_gone_is_named(copied: Path) -> None:
    first, second = sorted(manifest(copied))[:2]
    spoil(next((copied / "volumes.zarr" / first / "0").rglob("c/*/*/*")))
    shutil.rmtree(copied / "volumes.zarr" / second)
    (copied / "shards/holiday.jpg").write_text("x")
    found = list(problems(Folder(copied)))
    assert {f"volumes.zarr/{key}: missing or changed" for key in (first, second)} <= set(found)
    assert "shards/holiday.jpg: not of this corpus" in found


def test_counts_and_rows_are_held_against_the_bytes(copied: Path) -> None:
    """Wrong from the start: every checksum is right, since whoever wrote the corpus computed it over the wrong bytes."""
    content = json.loads((copied / "corpus.json").read_text())
    content["counts"]["accepted"] += 1
    shard = copied / "shards/train-000000.tar"
    with tarfile.open(shard) as archive:
        member = next(m for m in archive if m.name.endswith(".raw"))
    spoil(shard, member.offset_data + member.size // 2)
    content["checksums"]["shards/train-000000.tar"] = Folder(copied).checksum("shards/train-000000.tar")
    (copied / "corpus.json").write_text(json.dumps(content))
    counts, row = problems(Folder(copied))
    assert counts.startswith("corpus.json: counts")
    assert row == f"{member.name.split('.')[0]} in train-000000.tar: its payload does not lie where the manifest says"


def test_the_command_ends_in_one_line(
    copied: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["verify", str(copied)])
    verify.main()
    assert "whole, 8 volumes" in capsys.readouterr().out
    (copied / "corpus.json").unlink()
    with pytest.raises(UserError, match="1 problems; the build's command"):
        verify.main()


def test_scan_decides_as_a_build_does_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = mixed_raw(tmp_path / "raw")
    before = contents(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["scan", "--raw", str(raw), "--workers", "1"])
    scan.main()
    assert contents(tmp_path) == before
    said = capsys.readouterr()
    build(raw, tmp_path / "corpus", Spec())
    rows = [tuple(line.split("\t")[:3]) for line in said.out.splitlines()]
    assert rows == [(row["decision"], row["code"], path) for path, row in ledger(tmp_path / "corpus").items()]
    assert "6 inputs: 1 accepted, 1 duplicate" in said.err


def test_the_page_is_drawn_again(tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(corpus.parent / "raw", tmp_path / "corpus", SPEC, report=draw_report)
    before = contents(tmp_path / "corpus")
    (tmp_path / "corpus/report.html").write_text("gone")
    monkeypatch.setattr(sys, "argv", ["report", str(tmp_path / "corpus")])
    report.main()
    assert contents(tmp_path / "corpus") == before
    assert not build(corpus.parent / "raw", tmp_path / "corpus", SPEC, report=draw_report)[1]
    monkeypatch.setattr(sys, "argv", ["report", str(tmp_path)])
    with pytest.raises(UserError, match="no finished corpus"):
        report.main()


def test_the_owner_finds_the_file_behind_a_row(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = ledger(copied)["scan2.nii.gz"]["key"]
    for row in ("2", key):
        assert show(str(copied), row).splitlines()[:3] == ["row 2", "  file: scan2.nii.gz", "  decision: accepted"]
    assert capsys.readouterr().err == ""
    for row in ("99", "-1", "x"):
        with pytest.raises(UserError, match="no row of the ledger, which has 8"):
            show(str(copied), row)
    (copied / "private/ledger.parquet").chmod(0o644)
    show(str(copied), "0")
    assert "chmod 600" in capsys.readouterr().err
    (copied / "private/ledger.parquet").unlink()
    with pytest.raises(UserError, match="copied without their ledger"):
        show(str(copied), "0")


def test_a_refusal_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/flat.bin").write_bytes(np.zeros(99, np.uint8).tobytes())
    build(tmp_path / "raw", tmp_path / "corpus")
    assert "what to do: open it in the tool that wrote it" in show(str(tmp_path / "corpus"), "0")
