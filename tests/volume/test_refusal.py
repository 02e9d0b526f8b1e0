"""The list of refusal codes and its table in the docs."""

import pickle
import re
from pathlib import Path

import pytest

from mri_fm.volume.refusal import CODES, Refusal

INTAKE = Path(__file__).parents[2] / "docs" / "intake.md"


def test_the_docs_list_every_code_as_it_is() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.+) \| (.+) \|$", INTAKE.read_text(), re.MULTILINE)
    assert rows == [(code, entry.meaning, entry.remedy) for code, entry in CODES.items()]


def test_a_refusal_travels_between_processes() -> None:
    copy = pickle.loads(pickle.dumps(Refusal("spacing", "9  mm\nbetween")))
    assert (copy.code, copy.reason) == ("spacing", "9 mm between")
    with pytest.raises(ValueError, match="unknown"):
        Refusal("odd", "")
