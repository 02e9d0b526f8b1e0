"""The site builds without a warning, holds every page, and its links lead somewhere."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from tests.docs.pages import DOCS, ROOT, pages

pytest.importorskip("mkdocs", reason="mkdocs is not installed (extra docs)")


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mkdocs_hooks", DOCS / "mkdocs_hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("page", "before", "after"),
    [
        ("index.md", "[docs/export.md](docs/export.md)", "[docs/export.md](export.md)"),
        ("export.md", "[intake.md](intake.md)", "[What comes in, and what is refused](intake.md)"),
        ("augmentation.md", "[results](../benchmarks/results/loader.md)", "[results](results/loader.md)"),
        ("how-to/s3.md", "[x](../sources.md#s3)", "[x](../sources.md#s3)"),
        ("results/convergence.md", "![a](convergence.png)", "![a](convergence.png)"),
        ("contributing.md", "[the policy](SECURITY.md)", "[the policy](security.md)"),
        ("models.md", "[code](../mri_fm/models/vit.py)", "code"),
        ("models.md", "[paper](https://arxiv.org/abs/2606.13315)", "[paper](https://arxiv.org/abs/2606.13315)"),
    ],
)
def test_links_of_the_repository_become_links_of_the_site(hooks: ModuleType, page: str, before: str, after: str) -> None:
    given = SimpleNamespace(file=SimpleNamespace(src_uri=page))
    assert hooks.on_page_markdown(before, page=given, config=None, files=None).replace("`", "") == after


def test_the_navigation_names_every_page_once() -> None:
    nav = (ROOT / "mkdocs.yml").read_text().split("\nnav:\n")[1]
    named = re.findall(r"[\w/-]+\.md", nav)
    assert sorted(named) == sorted({*named})
    elsewhere = {"index.md", "contributing.md", "changelog.md", "security.md", "objectives.md"}
    assert set(named) == {*pages()} | elsewhere


def test_links_in_the_repository_lead_somewhere() -> None:
    for path in [*DOCS.rglob("*.md"), *(ROOT / "benchmarks/results").glob("*.md"), ROOT / "mri_fm/objectives/README.md"]:
        for target in re.findall(r"\]\((?!https?:)([^)#\s]+)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name}: {target}"


@pytest.mark.slow
def test_the_site_builds_strictly_and_holds_every_page(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    for page in [*pages(), "index.md", "security.md", "reference/export.md", "results/loader.md"]:
        assert (tmp_path / page).with_suffix(".html").is_file(), page
    assert "scan_of" in (tmp_path / "reference/export.html").read_text()
    html = "".join(path.read_text() for path in tmp_path.rglob("*.html"))
    assert "fonts.googleapis.com" not in html
    for path in tmp_path.rglob("*.html"):
        for target in re.findall(r'href="([^"#:]+\.html)', path.read_text()):
            assert Path(os.path.normpath(path.parent / target)).is_file() or target.startswith("/"), f"{path.name}: {target}"
