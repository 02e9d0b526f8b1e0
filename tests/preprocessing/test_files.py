"""Files and checksums."""

from pathlib import Path

import pytest
import xxhash

from preprocessing.files import checksum, write_bytes


def test_a_new_file_has_its_mode_and_no_other_is_overwritten(tmp_path: Path) -> None:
    write_bytes(tmp_path / "key", b"b", mode=0o600)
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        write_bytes(tmp_path / "key", b"a")
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
