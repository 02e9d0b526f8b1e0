import json
from pathlib import Path

import pytest

from mri_fm.data import schema
from mri_fm.data.corpus import Corpus
from mri_fm.errors import UserError


def refusal(root: Path, verify: str = "full") -> str:
    with pytest.raises(UserError) as error:
        Corpus.open(root, verify)
    assert "\n" not in str(error.value)
    return str(error.value)


def flip_byte(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


def test_samples_carry_the_manifest(ellipsoids: Path) -> None:
    corpus = Corpus.open(ellipsoids)
    assert [sample.key for sample in corpus.samples] == [f"vol{n:03d}" for n in range(7)]
    assert [sample.row for sample in corpus.samples] == list(range(7))
    first = corpus.samples[0]
    assert (first.shape, first.spacing, first.contrast) == ((20, 26, 22), (1.5, 0.7, 1.0), "T1")
    assert first.shard == ellipsoids / "shards" / "train-000000.tar"
    assert corpus.table.num_rows == 7
    assert corpus.info["format_version"] == schema.FORMAT_VERSION


def test_select_filters_by_split_and_contrast(ellipsoids: Path) -> None:
    corpus = Corpus.open(ellipsoids, "size")
    assert len(corpus.select()) == len(corpus.select("train")) == 7
    assert {sample.contrast for sample in corpus.select("train", ["T2"])} == {"T2"}
    assert corpus.select("val") == []


def test_select_names_what_exists(own_ellipsoids: Path) -> None:
    corpus = Corpus.open(own_ellipsoids)
    with pytest.raises(UserError, match=r"FLAIR.* holds T1, T2"):
        corpus.select("train", ["FLAIR"])
    corpus.samples = []
    with pytest.raises(UserError, match=r"no training volume.* holds nothing"):
        corpus.select("train")


def test_a_missing_corpus_says_how_to_make_one(tmp_path: Path) -> None:
    assert "python -m preprocessing.build_shards" in refusal(tmp_path / "none")


def test_another_format_version_is_refused(own_ellipsoids: Path) -> None:
    path = own_ellipsoids / schema.CORPUS_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 99}))
    assert "format version 99" in refusal(own_ellipsoids)


@pytest.mark.parametrize("text", ["", "[]", "{}", "{nonsense"])
def test_an_unreadable_corpus_file_is_named(own_ellipsoids: Path, text: str) -> None:
    (own_ellipsoids / schema.CORPUS_FILE).write_text(text)
    assert schema.CORPUS_FILE in refusal(own_ellipsoids)


@pytest.mark.parametrize("verify", ["full", "size"])
def test_a_missing_shard_is_named(own_ellipsoids: Path, verify: str) -> None:
    (own_ellipsoids / "shards" / "train-000001.tar").unlink()
    assert "train-000001.tar is missing" in refusal(own_ellipsoids, verify)


@pytest.mark.parametrize("verify", ["full", "size"])
def test_a_truncated_shard_is_named(own_ellipsoids: Path, verify: str) -> None:
    shard = own_ellipsoids / "shards" / "train-000001.tar"
    shard.write_bytes(shard.read_bytes()[:30000])
    assert "train-000001.tar is truncated" in refusal(own_ellipsoids, verify)


def test_a_changed_shard_is_named_by_full_verification_alone(own_ellipsoids: Path) -> None:
    flip_byte(own_ellipsoids / "shards" / "train-000002.tar", 2000)
    Corpus.open(own_ellipsoids, "size")
    assert "train-000002.tar was changed" in refusal(own_ellipsoids)


def test_a_changed_manifest_is_refused(own_ellipsoids: Path) -> None:
    flip_byte(own_ellipsoids / schema.MANIFEST_FILE, 100)
    assert "manifest.parquet was changed" in refusal(own_ellipsoids)
    (own_ellipsoids / schema.MANIFEST_FILE).write_bytes(b"no parquet")
    assert "manifest.parquet cannot be read" in refusal(own_ellipsoids, "size")
    (own_ellipsoids / schema.MANIFEST_FILE).unlink()
    assert "manifest.parquet is missing" in refusal(own_ellipsoids, "size")


def test_a_shard_without_checksum_is_refused(own_ellipsoids: Path) -> None:
    path = own_ellipsoids / schema.CORPUS_FILE
    info = json.loads(path.read_text())
    del info["checksums"]["shards/train-000000.tar"]
    path.write_text(json.dumps(info))
    assert "no checksum for shards/train-000000.tar" in refusal(own_ellipsoids)
