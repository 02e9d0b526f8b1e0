"""Raw scans and corpora in a bucket, against moto's real server."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from mri_fm.data.corpus import Corpus
from mri_fm.data.reader import ShardReader
from mri_fm.data.retry import Backoff
from mri_fm.errors import ResumableError, UserError
from preprocessing import tasks
from preprocessing.build import Spec, _check_apart, build
from preprocessing.build_shards import resumable
from preprocessing.ledger import show
from preprocessing.place import open_place
from preprocessing.source import open_source
from preprocessing.verify import problems
from tests.corpora import SPEC
from tests.preprocessing.personal import write_people
from tests.preprocessing.test_build import contents
from tests.s3 import BUCKET, S3Server


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with S3Server() as running:
        yield running


def download(server: S3Server, address: str, folder: Path) -> Path:
    system = server.file_system()
    for path in system.find(address):
        local = folder / path.removeprefix(address.removeprefix("s3://") + "/")
        local.parent.mkdir(parents=True, exist_ok=True)
        system.get_file(path, str(local))
    return folder


def test_the_same_bytes_from_bucket_to_bucket(server: S3Server, tmp_path: Path, corpus: Path) -> None:
    raw = server.upload(corpus.parent / "raw", "raw")
    out = f"s3://{BUCKET}/built"
    assert build(raw, out, SPEC)[1]
    assert contents(download(server, out, tmp_path / "down")) == contents(corpus)
    assert not build(raw, out, SPEC)[1]
    assert list(problems(open_place(out))) == []
    assert "file: scan2.nii.gz" in show(out, "2")
    opened = Corpus.open(out)
    assert ShardReader(opened.storage).read(opened.samples[0]).shape == opened.samples[0].shape
    with pytest.raises(UserError, match="objects that are no corpus"):
        build(corpus.parent / "raw", raw, SPEC)


def test_series_sidecars_and_trees_in_a_bucket(server: S3Server, tmp_path: Path) -> None:
    write_people(tmp_path / "raw")
    key = tmp_path / "key"
    key.write_text("ab" * 32)
    remote = build(server.upload(tmp_path / "raw", "people"), tmp_path / "remote", key=key)[0]
    local = build(tmp_path / "raw", tmp_path / "local", key=key)[0]
    assert remote["counts"] == local["counts"]
    assert contents(tmp_path / "remote") == contents(tmp_path / "local")


def test_a_lost_connection_stops_the_build_and_a_new_one_resumes_it(
    server: S3Server, tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, written, real = f"s3://{BUCKET}/lost", [], tasks.write_shard
    monkeypatch.setattr("mri_fm.data.storage.NETWORK", Backoff(tries=2, first_s=0.01))

    def lose_it(path: Path, *rest: object) -> object:
        written.append(path.name)
        if len(written) == 3:
            server.stall()
            monkeypatch.setattr("mri_fm.data.storage.REQUEST_TIMEOUT_S", 0.5)
        return real(path, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(tasks, "write_shard", lose_it)
    try:
        with pytest.raises(ResumableError, match="run the same command again"), resumable(out):
            build(corpus.parent / "raw", out, SPEC)
    finally:
        server.resume()
    assert len(written) == 3
    assert "corpus.json" not in open_place(out).children("")
    build(corpus.parent / "raw", out, SPEC)
    assert written[2:].count(written[2]) == 2
    assert not set(written[:2]) & set(written[3:])
    assert contents(download(server, out, tmp_path / "down")) == contents(corpus)


def test_addresses_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    for address, words in (("gs://bucket/x", "no known scheme"), ("s3:///x", "no bucket")):
        with pytest.raises(UserError, match=words):
            build(tmp_path / "raw", address, Spec())
        with pytest.raises(UserError, match=words):
            build(address, tmp_path / "out", Spec())
    with pytest.raises(UserError, match="choose another prefix"):
        _check_apart(open_source("s3://b/x"), open_place("s3://b/x/"), {})
