"""CITATION.cff, CHANGELOG.md, CONTRIBUTING.md and SECURITY.md agree with the package and with each other."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CFF_KEYS = {"cff-version", "message", "type", "title", "abstract", "version", "license", "authors", "keywords", "references"}
PERSON, ENTITY = {"family-names", "given-names", "orcid", "affiliation"}, {"name", "website"}


def citation() -> dict:
    return yaml.safe_load((ROOT / "CITATION.cff").read_text())


def test_the_citation_has_what_the_schema_requires_and_nothing_it_does_not_know() -> None:
    """Citation File Format 1.2.0: `cff-version`, `message`, `title`, `authors`; of a reference `type`, `title`, `authors`."""
    content = citation()
    assert {"cff-version", "message", "title", "authors"} <= set(content) <= CFF_KEYS
    assert content["cff-version"] == "1.2.0"
    assert content["type"] in ("software", "dataset")
    for work in (content, *content["references"]):
        assert {"title", "authors"} <= set(work)
        assert work["authors"]
        assert all(set(author) <= PERSON or set(author) <= ENTITY for author in work["authors"])
    assert all(reference["type"] == "article" for reference in content["references"])


def test_version_licence_and_title_are_the_package_s() -> None:
    content = citation()
    assert (content["title"], str(content["version"]), content["license"]) == (
        PROJECT["name"],
        PROJECT["version"],
        PROJECT["license"],
    )
    assert re.search(rf"^## {re.escape(PROJECT['version'])} ", (ROOT / "CHANGELOG.md").read_text(), flags=re.M)


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"])
def test_files_and_targets_that_are_named_exist(name: str) -> None:
    text = (ROOT / name).read_text()
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (ROOT / target).is_file(), target
    for path in re.findall(r"`((?:tests|docs|mri_fm|benchmarks)/[\w/.]+)`", text):
        assert (ROOT / path).exists(), path
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    assert set(re.findall(r"`?make ([a-z-]+)", text)) <= targets
