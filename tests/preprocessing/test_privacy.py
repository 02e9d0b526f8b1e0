"""The rules of what may leave the source."""

from pathlib import Path

import pytest

from mri_fm.errors import UserError
from preprocessing.privacy import new_key, pseudonym, public_columns, public_dataset, public_session, read_key

KEY = b"secret"


def test_a_pseudonym_is_a_function_of_key_and_identity() -> None:
    assert pseudonym(KEY, "doe") == pseudonym(KEY, "doe")
    assert len({pseudonym(KEY, "doe"), pseudonym(KEY, "roe"), pseudonym(b"other", "doe")}) == 3


@pytest.mark.parametrize("session", ["", "ses-1", "ses-012", "ses-b", "ses-baseline"])
def test_plain_sessions_pass(session: str) -> None:
    assert public_session(KEY, "s", session) == session


@pytest.mark.parametrize("session", ["ses-20010203", "ses-JaneDoe", "ses-1234"])
def test_other_sessions_become_pseudonyms_of_the_subject_s(session: str) -> None:
    hidden = public_session(KEY, "s", session)
    assert hidden.startswith("ses-")
    assert session[4:] not in hidden
    assert hidden != public_session(KEY, "other", session)


def test_only_accession_numbers_are_names_of_unknown_trees() -> None:
    assert public_dataset(KEY, "a/ds000117", "ds000117") == "ds000117"
    assert public_dataset(KEY, "a/doe", "doe").startswith("bids-")
    assert public_dataset(KEY, "a/doe", "doe") != public_dataset(KEY, "b/doe", "doe")


@pytest.mark.parametrize(
    ("column", "values", "passes"),
    [
        ("age", ["61.5", "", "59"], True),
        ("mmse", ["-1", ".5", "3e2"], True),
        ("sex", ["M", "F"], True),
        ("diagnosis", ["control", "control", "dementia", "dementia"], True),
        ("diagnosis", ["control", "dementia"], False),  # could as well be two names
        ("who", ["Jane", "John"], False),
        ("birthDate", ["1", "2"], False),
        ("Patient_Name", ["A", "A"], False),
        ("mrn", ["1", "2"], False),
        ("visit", ["2001-02-03", "2001-02-03"], False),
        ("visit", ["3.2.2001", "4"], False),
        ("record", ["100200", "1"], False),  # six digits
    ],
)
def test_columns(column: str, values: list[str], passes: bool) -> None:
    assert public_columns([{column: value} for value in values]) == ([column] if passes else [])


def test_keys(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(new_key() + "\n")
    assert len(read_key(tmp_path / "key")) == 32
    assert new_key() != new_key()
    for text, words in (("xyz", "damaged"), ("ab", "too short")):
        (tmp_path / "bad").write_text(text)
        with pytest.raises(UserError, match=words):
            read_key(tmp_path / "bad")
    with pytest.raises(UserError, match="cannot be read"):
        read_key(tmp_path / "absent")
