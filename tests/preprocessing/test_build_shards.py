"""The command, as a user runs it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.preprocessing.test_build import contents


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "preprocessing.build_shards", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_two_workers_write_the_same_corpus(tmp_path: Path, corpus: Path) -> None:
    arguments = ("--raw", corpus.parent / "raw", "--out", tmp_path / "c", "--val-fraction", 0.3, "--shard-bytes", "4e5")
    done = run(*arguments, "--workers", 2)
    assert done.returncode == 0, done.stderr
    assert "8 inputs = 8 accepted + 0 duplicate + 0 refused" in done.stdout
    ours, theirs = contents(tmp_path / "c"), contents(corpus)
    assert {k: v for k, v in ours.items() if k not in ("report.html", "corpus.json")} == {
        k: v for k, v in theirs.items() if k != "corpus.json"
    }
    assert "report.html" in json.loads((tmp_path / "c/corpus.json").read_text())["checksums"]
    again = run(*arguments)
    assert "nothing to do" in again.stdout
    assert contents(tmp_path / "c") == ours


@pytest.mark.parametrize(
    ("extra", "words"), [(["--workers", "0"], "--workers 0"), (["--max-spacing", "-1"], "--max-spacing -1"), ([], "no folder")]
)
def test_mistakes_are_one_line(tmp_path: Path, extra: list[str], words: str) -> None:
    done = run("--raw", tmp_path / "absent", "--out", tmp_path / "c", *extra)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert words in done.stderr
