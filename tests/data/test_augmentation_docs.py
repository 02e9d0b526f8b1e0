"""docs/augmentation.md names every option of the augmentation with its default."""

import dataclasses
import re
from pathlib import Path

import yaml

from mri_fm.config import ArtefactConfig, AugmentConfig

PAGE = Path(__file__).parents[2] / "docs" / "augmentation.md"
PROBABILITIES = ("motion", "ghosting", "anisotropy", "spike")


def documented() -> dict[str, object]:
    """Option → default, from the table."""
    rows = [line.split(" | ") for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    pairs = (zip(re.findall(r"`([\w.]+)`", names), defaults.split(", "), strict=True) for names, defaults, *_ in rows)
    return {name: yaml.safe_load(default) for row in pairs for name, default in row}


def test_the_table_has_every_option_with_its_default() -> None:
    options = {field.name: getattr(AugmentConfig(), field.name) for field in dataclasses.fields(AugmentConfig)}
    del options["artefacts"]
    assert documented() == options | {f"artefacts.{name}": getattr(ArtefactConfig(), name) for name in PROBABILITIES}


def test_the_page_names_the_strengths_of_artefacts() -> None:
    text = PAGE.read_text()
    strengths = {field.name for field in dataclasses.fields(ArtefactConfig)} - set(PROBABILITIES)
    assert [name for name in strengths if f"`{name}`" not in text] == []
