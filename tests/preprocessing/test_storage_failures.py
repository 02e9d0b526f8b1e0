"""What the machine can do to a build: no room, no right. It stops with what to do, and the same command goes on."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from preprocessing.build import build
from tests.corpora import SPEC
from tests.preprocessing.test_build import contents
from tests.preprocessing.test_kill import OPTIONS

BUILD = [sys.executable, "-m", "preprocessing.build_shards", "--raw"]
OVERRIDES = "-dac_override,-dac_read_search"


def command(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)


needs_namespaces = pytest.mark.skipif(
    command("unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt").returncode != 0,
    reason="a small file system needs the right to mount one in a namespace",
)


def build_in(folder: Path, raw: Path, megabytes: float) -> subprocess.CompletedProcess[str]:
    """Build into a file system of that size, which ends with the command; what was written is copied to `folder`."""
    script = f"""mount -t tmpfs -o size={int(megabytes * 1e6)} tmpfs {folder}/small &&
        cp -a {folder}/kept/. {folder}/small/ && shift &&
        "$@" ; code=$? ; cp -a {folder}/small/. {folder}/kept/ ; exit $code"""
    options = ["--out", folder / "small/corpus", *OPTIONS, "--workers", 1]
    return command("unshare", "-rm", "bash", "-c", script, "-", "-", *BUILD, raw, *options)


@needs_namespaces
def test_a_full_disk_stops_the_build_and_room_resumes_it(tmp_path: Path, corpus: Path) -> None:
    for name in ("small", "kept"):
        (tmp_path / name).mkdir()
    raw = corpus.parent / "raw"
    full = build_in(tmp_path, raw, 1)
    assert full.returncode == 75, full.stderr
    assert full.stderr.strip().splitlines()[-1].startswith("error: ")
    assert "No space left on device; mend that and run the same command again" in full.stderr
    build(raw, tmp_path / "kept/corpus", SPEC)
    assert contents(tmp_path / "kept/corpus") == contents(corpus)


def without_override() -> list[str]:
    """What makes root obey the modes of files, as everybody else does."""
    return ["setpriv", f"--bounding-set={OVERRIDES}", f"--inh-caps={OVERRIDES}"] if os.getuid() == 0 else []


@pytest.mark.skipif(command(*without_override(), "true").returncode != 0, reason="root cannot give up its overrides here")
@pytest.mark.parametrize(
    ("forbidden", "mode"), [("raw/scan3.nii.gz", 0o000), pytest.param("corpus/shards", 0o500, marks=pytest.mark.slow)]
)
def test_a_missing_right_stops_the_build_and_the_right_resumes_it(
    tmp_path: Path, corpus: Path, forbidden: str, mode: int
) -> None:
    shutil.copytree(corpus.parent / "raw", tmp_path / "raw")
    (tmp_path / "corpus/private").mkdir(parents=True)
    (tmp_path / "corpus/private/lock").touch()
    (tmp_path / "corpus/shards").mkdir()
    (tmp_path / forbidden).chmod(mode)
    refused = command(*without_override(), *BUILD, tmp_path / "raw", "--out", tmp_path / "corpus", *OPTIONS, "--workers", 1)
    assert refused.returncode == 75, refused.stderr
    last = refused.stderr.strip().splitlines()[-1]
    assert forbidden in last
    assert "Permission denied; mend that and run the same command again" in last
    assert not (tmp_path / "corpus/corpus.json").exists()
    (tmp_path / forbidden).chmod(0o700)
    build(tmp_path / "raw", tmp_path / "corpus", SPEC)
    assert contents(tmp_path / "corpus") == contents(corpus)
