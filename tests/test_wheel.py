"""The wheel works from an empty folder: library and presets, typed, with its command."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from mri_fm.export.run import Request, export_run
from tests.export.conftest import configure, write_run

ROOT = Path(__file__).parents[1]
SOURCES = ["mri_fm", "preprocessing", "launch", "pyproject.toml", "README.md", "LICENSE"]
USE = """
import sys
for name in ("deepspeed", "nvidia.dali", "webdataset", "dask", "wandb"):
    sys.modules[name] = None  # importing it fails
from pathlib import Path
import mri_fm
from mri_fm.config import load_config
from mri_fm.objectives import OBJECTIVES
assert Path(mri_fm.__file__).is_relative_to(sys.argv[1]), mri_fm.__file__
for name in OBJECTIVES:
    load_config(name, ["model=vit_base", "data=paper", "data.corpus=c", "run.dir=r"])
print(tuple(mri_fm.load_encoder(sys.argv[2]).embed(sys.argv[3]).shape))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built offline from a copy, since setuptools leaves a build/ folder where it builds."""
    source = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(ROOT / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "--no-index", "-q", "-w", "out"]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (built,) = (source / "out").glob("*.whl")
    return built


def test_it_holds_presets_and_types_and_no_tests(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    presets = {path.relative_to(ROOT).as_posix() for path in (ROOT / "mri_fm/presets").rglob("*.yaml")}
    assert presets | {"mri_fm/py.typed"} <= set(names)
    tops = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert tops == {"mri_fm", "preprocessing", "launch"}
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "mri_fm").rglob("*.py")}
    assert modules <= set(names)


def test_it_installs_the_command(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (entries,) = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
    parser = configparser.ConfigParser()
    parser.read_string(archive.read(entries).decode())
    assert dict(parser["console_scripts"]) == {"mri-fm": "mri_fm.cli:main"}


def test_it_works_from_an_empty_folder_without_deepspeed_and_dali(wheel: Path, corpus: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", configure(tmp_path / "run", corpus))
    exported = export_run(Request(run, tmp_path / "encoder"))
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    (tmp_path / "empty").mkdir()
    scan = corpus.parent / "raw/scan0.nii.gz"
    words = [sys.executable, "-c", USE, str(tmp_path / "installed"), str(exported), str(scan)]
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "installed"), "PYTHONSAFEPATH": "1"}
    done = subprocess.run(words, cwd=tmp_path / "empty", env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "(24,)", done.stderr
    assert not list((tmp_path / "empty").iterdir())
