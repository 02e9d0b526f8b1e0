"""Atomic files and checksums."""

from pathlib import Path

import xxhash

from preprocessing.files import file_checksum, tree_checksum, write_text


def test_text_replaces_with_the_mode(tmp_path: Path) -> None:
    write_text(tmp_path / "key", "a", mode=0o600)
    write_text(tmp_path / "key", "b", mode=0o600)
    assert (tmp_path / "key").read_text() == "b"
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    assert file_checksum(tmp_path / "key") == xxhash.xxh3_64_hexdigest(b"b")


def test_tree_checksum_sees_names_and_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_bytes(b"1")
    first = tree_checksum(tmp_path)
    assert first == tree_checksum(tmp_path)
    (tmp_path / "a" / "x").write_bytes(b"2")
    second = tree_checksum(tmp_path)
    (tmp_path / "a" / "x").rename(tmp_path / "a" / "y")
    assert len({first, second, tree_checksum(tmp_path)}) == 3
