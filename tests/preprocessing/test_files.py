"""Atomic files and checksums."""

from pathlib import Path

import pytest
import xxhash

from preprocessing.files import checksum, read_object, write_text


def test_text_replaces_with_the_mode(tmp_path: Path) -> None:
    write_text(tmp_path / "key", "a", mode=0o600)
    write_text(tmp_path / "key", "b", mode=0o600)
    assert (tmp_path / "key").read_text() == "b"
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    assert checksum(tmp_path / "key") == xxhash.xxh3_64_hexdigest(b"b")
    assert checksum(tmp_path / "absent") == ""


def test_tree_checksum_sees_names_and_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_bytes(b"1")
    first = checksum(tmp_path)
    assert first == checksum(tmp_path)
    (tmp_path / "a" / "x").write_bytes(b"2")
    second = checksum(tmp_path)
    (tmp_path / "a" / "x").rename(tmp_path / "a" / "y")
    assert len({first, second, checksum(tmp_path)}) == 3


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff\xfe", b"[1]"])
def test_a_damaged_object_is_none(tmp_path: Path, damage: bytes) -> None:
    write_text(tmp_path / "a.json", '{"a": 1}')
    assert read_object(tmp_path / "a.json") == {"a": 1}
    (tmp_path / "a.json").write_bytes(damage)
    assert read_object(tmp_path / "a.json") == read_object(tmp_path / "absent") == {}
