"""What may leave the source: pseudonyms under a secret key, and labels that name nobody.

Everything that comes from folders, headers and tables whose layout no adapter knows counts as personal until a rule here lets
it pass. What the owner of the data writes into labels.csv is passed on as it stands.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

from mri_fm.errors import UserError

KEY_BYTES = 32
PUBLIC_SESSION = re.compile(r"ses-(\d{1,3}|baseline|screening|followup|[a-z])")
PUBLIC_DATASET = re.compile(r"ds\d{6}")  # an accession number of OpenNeuro, the same for everybody
PERSONAL_WORDS = frozenset(
    "accession address birth birthdate birthday city comment comments contact date dates dob doctor email fax first firstname "
    "forename hospital id identifier identifiers ids initials insurance ip last lastname mail mobile mrn name names nhs note "
    "notes operator patient phone photo physician postal postcode referring serial social ssn street surname telephone uid url "
    "uuid zip".split()
)
NUMBER = re.compile(r"[-+]?\d{1,5}(\.\d*)?([eE][-+]?\d{1,2})?|[-+]?\.\d+")
DATE = re.compile(r"(?<!\d)\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}(?!\d)")
SHORT_CODE = 3  # letters; a longer text must be shared to count as a category
MAX_CATEGORIES = 32


def pseudonym(key: bytes, identity: str, *, prefix: str = "anon", digits: int = 12) -> str:
    """HMAC-SHA256 of an identity, shortened to `digits` hex digits: cannot be undone or guessed without the key."""
    return f"{prefix}-" + hmac.new(key, identity.encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()[:digits]


def public_session(key: bytes, subject: str, session: str) -> str:
    """A session's name where it is a number or a common word, else a pseudonym: dates of visits are personal."""
    if not session or PUBLIC_SESSION.fullmatch(session):
        return session
    return pseudonym(key, f"session {subject} {session}", prefix="ses", digits=8)


def public_dataset(key: bytes, root: str, name: str) -> str:
    """The name of a tree that no adapter knows: `name` if it is an OpenNeuro accession number, else a pseudonym of `root`."""
    return name if PUBLIC_DATASET.fullmatch(name) else pseudonym(key, f"dataset {root}", prefix="bids", digits=8)


def public_columns(table: Sequence[Mapping[str, str]]) -> list[str]:
    """The columns of a table of people that say nothing about who they are.

    A column passes if no word of its name is one of `PERSONAL_WORDS` and its values are numbers below 100 000, or categories:
    codes of at most `SHORT_CODE` characters, or words that on average two people share. Dates never pass; "" is missing.
    """
    names = dict.fromkeys(name for row in table for name in row)
    return [name for name in names if not _personal_name(name) and _harmless([row.get(name, "") for row in table])]


def new_key() -> str:
    """A new key, as it stands in a file."""
    return secrets.token_hex(KEY_BYTES)


def parse_key(text: str, where: str) -> bytes:
    """The secret key in a text: hex digits, at least 32 of them.

    Raises:
        UserError: it is something else; `where` names its file.
    """
    try:
        key = bytes.fromhex(text)
    except ValueError as error:
        raise UserError(f"{where} is damaged and the pseudonyms hang on it: restore it, or build into a new folder") from error
    if len(key) < KEY_BYTES // 2:
        raise UserError(f"key {where} is too short to protect anybody: make one with `openssl rand -hex {KEY_BYTES}`")
    return key


def read_key(path: Path) -> bytes:
    """The secret key in a file.

    Raises:
        UserError: no such file, or see `parse_key`.
    """
    try:
        return parse_key(path.read_text(errors="replace"), str(path))
    except OSError as error:
        raise UserError(f"key {path} cannot be read ({error.strerror}): give the file of an earlier build") from error


def _personal_name(column: str) -> bool:
    words = re.sub(r"([a-z])([A-Z])", r"\1 \2", column).lower()
    return not PERSONAL_WORDS.isdisjoint(re.findall(r"[a-z]+", words))


def _harmless(values: list[str]) -> bool:
    texts = [value.strip() for value in values if value.strip()]
    if any(DATE.search(text) for text in texts):
        return False
    words = [text for text in texts if not NUMBER.fullmatch(text)]
    distinct = set(words)
    if len(distinct) > MAX_CATEGORIES or any(re.search(r"\d{6}", word) for word in distinct):
        return False
    return all(len(word) <= SHORT_CODE for word in distinct) or 2 * len(distinct) <= len(words)
