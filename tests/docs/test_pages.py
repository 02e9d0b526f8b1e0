"""Every block of code in docs/ is run, or marked as what cannot be run here and read by the parsers that it is meant for."""

from __future__ import annotations

import json
import runpy
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from mri_fm.export.run import Request, export_run
from mri_fm.objectives import OBJECTIVES
from tests.docs.pages import LANGUAGES, MARKS, blocks, commands, indented_commands, pages, require_understood
from tests.export.conftest import configure, write_run
from tests.s3 import S3Server

RUN_BASH = {"export.md", *(page for page in pages() if page.startswith("how-to/"))}
TUTORIAL = "tutorial.md"  # has a test of its own
SLOW = {"how-to/cluster.md", "how-to/s3.md"}
EVERY = [(page, number) for page in pages() for number, _ in enumerate(blocks(page))]


@pytest.mark.parametrize(("page", "number"), EVERY)
def test_every_block_is_understood(page: str, number: int) -> None:
    block = blocks(page)[number]
    assert block.language in LANGUAGES, f"{page}: say what a block is in: ```bash, python, yaml, json or text"
    assert block.mark in ("", *MARKS)
    if block.language == "bash":
        for command in commands(block.text):
            require_understood(command)
    elif block.language == "python":
        compile(block.text, page, "exec")
    elif block.language == "yaml":
        list(yaml.safe_load_all(block.text))
    elif block.language == "json":
        json.loads(block.text)


@pytest.mark.parametrize("page", [page for page in pages() if indented_commands(page)])
def test_commands_in_indented_blocks_are_understood(page: str) -> None:
    for command in indented_commands(page):
        require_understood(command)


@pytest.fixture(scope="module")
def places(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What the names in commands stand for."""
    root = tmp_path_factory.mktemp("places")
    run = write_run(root / "run", configure(root / "run", corpus))
    return {
        "RUN": run,
        "CORPUS": corpus,
        "corpus": corpus,
        "DIR": export_run(Request(run, root / "encoder")),
        "FOLDER": corpus.parent / "raw",
        "scan.nii.gz": corpus.parent / "raw/scan0.nii.gz",
    }


@pytest.fixture
def sandbox(places: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with copies of these places under their names."""
    for name, place in places.items():
        (shutil.copytree if place.is_dir() else shutil.copyfile)(place, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def runnable(page: str) -> bool:
    found = [block for block in blocks(page) if not block.mark and page != TUTORIAL]
    return any(block.language == "python" or (block.language == "bash" and page in RUN_BASH) for block in found)


def marked(page: str) -> Any:
    return pytest.param(page, marks=pytest.mark.slow) if page in SLOW else page


@pytest.fixture
def bucket(request: pytest.FixtureRequest, corpus: Path) -> Iterator[None]:
    """s3://corpora/small, for the page that reads it."""
    if "s3" not in request.node.name:
        yield
        return
    with S3Server() as server:
        assert server.upload(corpus) == "s3://corpora/small"
        yield


@pytest.mark.parametrize("page", [marked(page) for page in pages() if runnable(page)])
@pytest.mark.usefixtures("sandbox", "bucket")
def test_a_page_runs_from_top_to_bottom(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mri_fm.objectives.OBJECTIVES", dict(OBJECTIVES))
    module = type(sys)("page")  # dataclasses look their module up
    monkeypatch.setitem(sys.modules, "page", module)
    for block in blocks(page):
        if block.mark:
            continue
        if block.language == "python":
            run_python(block.text, page, vars(module))
        elif block.language == "bash" and page in RUN_BASH:
            for command in commands(block.text):
                run_command(command, monkeypatch)


def run_python(text: str, page: str, namespace: dict[str, Any]) -> None:
    """Run a block; one that needs a package that is optional and absent ends the page as skipped."""
    try:
        exec(compile(text, page, "exec"), namespace)
    except ModuleNotFoundError as error:
        if error.name not in ("monai", "torchio"):
            raise
        pytest.skip(f"{error.name} is not installed (extra bench)")


def run_command(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`python -m MODULE …` or `mri-fm …`, in this process."""
    words = shlex.split(command, comments=True)
    module, arguments = ("mri_fm.cli", words[1:]) if words[0] == "mri-fm" else (words[2], words[3:])
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    for imported in (f"{module}.__main__", module):  # as in a process that begins with it
        if not hasattr(sys.modules.get(imported), "__path__"):
            monkeypatch.delitem(sys.modules, imported, raising=False)
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(module, run_name="__main__", alter_sys=False)
    assert ended.value.code in (0, None), command
