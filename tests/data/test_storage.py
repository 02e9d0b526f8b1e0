"""Storage: a folder, and a real S3 server that is killed, slow, empty or closed to us."""

import multiprocessing
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import xxhash

import train
from mri_fm.data import storage as storage_module
from mri_fm.data.corpus import Corpus
from mri_fm.data.loader import evaluation_batches
from mri_fm.data.reader import BadSampleError, Fault, ShardReader
from mri_fm.data.retry import Backoff
from mri_fm.data.storage import LocalStorage, S3Storage, Storage, open_storage, same_place
from mri_fm.errors import EXIT_RESUMABLE, ResumableError, UserError
from tests.data.test_loader import CPU, by_position, config, loader, take
from tests.distributed import run_ranks
from tests.s3 import BUCKET, S3Server


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with S3Server() as running:
        yield running


@pytest.fixture(scope="module")
def address(server: S3Server, ellipsoids: Path) -> str:
    return server.upload(ellipsoids)


@pytest.fixture
def own_server() -> Iterator[S3Server]:
    """One that a test may kill."""
    with S3Server() as running:
        yield running


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits short enough for a test; a server that is there may still take its time to answer."""
    monkeypatch.setattr(storage_module, "NETWORK", Backoff(tries=3, first_s=0.01))
    monkeypatch.setattr(storage_module, "REQUEST_TIMEOUT_S", 60.0)


def test_both_storages_read_the_same(address: str, ellipsoids: Path) -> None:
    here, there = LocalStorage(str(ellipsoids)), S3Storage(address)
    for name in ("corpus.json", "shards/train-000000.tar"):
        content = (ellipsoids / name).read_bytes()
        for storage in (here, there):
            path = storage.root / name
            assert storage.size(path) == len(content)
            assert storage.read(path, 100, 50) == content[100:150]
            assert storage.read(path, len(content) - 5, 50) == content[-5:]
            assert storage.read(path, len(content) + 5, 50) == b""
            assert storage.read_all(path) == content
            assert storage.checksum(path) == xxhash.xxh3_64_hexdigest(content)
    for storage in (here, there):
        with pytest.raises(FileNotFoundError):
            storage.read(storage.root / "none", 0, 1)
        with pytest.raises(FileNotFoundError):
            storage.size(storage.root / "none")
        storage.close()


def test_a_range_read_fetches_that_range_alone(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus, asked = Corpus.open(address, "size"), []
    request = S3Storage._request_once

    def listening(self: S3Storage, method: str, path: str, **options: int) -> object:
        asked.append((method, path, options))
        return request(self, method, path, **options)

    monkeypatch.setattr(S3Storage, "_request_once", listening)
    sample = corpus.samples[4]
    ShardReader(corpus.storage).read(sample)
    assert asked == [("cat_file", str(sample.shard), {"start": sample.offset, "end": sample.offset + sample.size})]


def test_training_and_evaluation_from_s3_see_the_same_voxels(address: str, ellipsoids: Path) -> None:
    assert by_position(take(loader(address), 3)) == by_position(take(loader(ellipsoids), 3))
    batches = []
    for place in (address, ellipsoids):
        corpus = Corpus.open(place)
        batches.append(list(evaluation_batches(corpus, corpus.samples, config(), batch_size=3, device=CPU)))
    assert by_position(batches[0]) == by_position(batches[1])


def test_a_forked_process_makes_a_connection_of_its_own(address: str) -> None:
    corpus = Corpus.open(address, "size")
    reader = ShardReader(corpus.storage)
    expected = [reader.read(sample).sum() for sample in corpus.samples]
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    children = [
        context.Process(target=lambda: answers.put([reader.read(sample).sum() for sample in corpus.samples]), daemon=True)
        for _ in range(2)
    ]
    for child in children:
        child.start()
    assert [answers.get(timeout=300) for _ in children] == [expected] * 2
    for child in children:
        child.join()
    assert reader.read(corpus.samples[0]).sum() == expected[0]


def exit_code_of_training(rank: int) -> int | str | None:
    try:
        return train.main()
    except SystemExit as end:
        return end.code


def refusal(address: str, verify: str = "full") -> str:
    with pytest.raises(UserError) as error:
        Corpus.open(address, verify)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_is_wrong_on_s3_is_named_before_training(
    server: S3Server, ellipsoids: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "corpus.json is missing (no such bucket)" in refusal("s3://no-such-bucket/small")
    assert f"s3://{BUCKET}/none/corpus.json is missing" in refusal(f"s3://{BUCKET}/none")
    address = server.upload(ellipsoids, "damaged")
    server.damage(address, "train-000001.tar", at=2000)
    assert "train-000001.tar was changed" in refusal(address)
    server.damage(address, "train-000001.tar", keep=30000)
    assert "train-000001.tar is truncated" in refusal(address, "size")
    server.file_system().rm(f"{BUCKET}/damaged/shards/train-000001.tar")
    assert "train-000001.tar is missing" in refusal(address, "size")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    assert "set AWS_ACCESS_KEY_ID" in refusal(address)


@pytest.mark.parametrize(
    ("address", "message"),
    [("gs://bucket/x", "'gs' is no known scheme"), ("s3://", "names no bucket"), ("s3:///x", "no bucket")],
)
def test_senseless_addresses_are_named(address: str, message: str) -> None:
    assert message in refusal(address)


@pytest.mark.usefixtures("impatient")
def test_a_server_that_is_not_there_is_named(own_server: S3Server) -> None:
    own_server.kill()
    with pytest.raises(ResumableError) as error:
        Corpus.open(f"s3://{BUCKET}/small")
    message = f"the storage is away: s3://{BUCKET}/small/corpus.json cannot be read (S3 does not answer"
    assert str(error.value).startswith(message)
    assert str(error.value).endswith("the same command goes on once it is back")
    assert "\n" not in str(error.value)


@pytest.mark.usefixtures("impatient")
def test_a_server_that_goes_while_shards_are_verified_is_no_changed_shard(own_server: S3Server, ellipsoids: Path) -> None:
    corpus = Corpus.open(own_server.upload(ellipsoids), "size")
    own_server.kill()
    with pytest.raises(ResumableError, match=r"train-000000\.tar cannot be read"):
        corpus.verify_shard("train-000000.tar")


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.usefixtures("impatient")
def test_training_from_a_server_that_is_not_there_ends_resumable(
    own_server: S3Server, workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """With workers the corpus is opened before the ranks meet, without them after."""
    own_server.kill()
    words = [f"data.corpus=s3://{BUCKET}/small", f"run.dir={tmp_path}", f"data.workers={workers}", "wandb.mode=disabled"]
    monkeypatch.setattr(sys, "argv", ["train.py", "--objective", "mae", *words])
    assert run_ranks(exit_code_of_training, 1) == [EXIT_RESUMABLE]
    assert "error: the storage is away" in capfd.readouterr().err


def fault(storage: Storage, sample: object) -> Fault:
    with pytest.raises(BadSampleError) as error:
        ShardReader(storage).read(sample)
    return error.value.fault


@pytest.mark.usefixtures("impatient")
def test_each_fault_of_s3_has_its_name(own_server: S3Server, ellipsoids: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = own_server.upload(ellipsoids)
    corpus = Corpus.open(address, "size")
    first = corpus.samples[0]
    own_server.stall()
    with monkeypatch.context() as patch:
        patch.setattr(storage_module, "REQUEST_TIMEOUT_S", 0.5)
        assert fault(S3Storage(address), first) is Fault.UNREACHABLE
    own_server.resume()
    ShardReader(corpus.storage).read(first)
    own_server.damage(address, first.shard.name, at=first.offset + 100)
    assert fault(corpus.storage, first) is Fault.CHECKSUM
    own_server.damage(address, first.shard.name, keep=first.offset + 100)
    assert fault(corpus.storage, first) is Fault.SHORT_READ
    own_server.file_system().rm(f"{BUCKET}/small/shards/{first.shard.name}")
    assert fault(corpus.storage, first) is Fault.UNREADABLE
    own_server.kill()
    assert fault(corpus.storage, first) is Fault.UNREACHABLE


def test_workers_read_from_s3_into_one_cache(address: str, ellipsoids: Path, tmp_path: Path) -> None:
    expected = by_position(take(loader(ellipsoids), 4))
    data = config(workers=2, cache_dir=str(tmp_path))
    fresh, again = (take(loader(address, data), 4) for _ in range(2))
    assert by_position(fresh) == by_position(again) == expected
    assert sum(batch.cached for batch in again) == 16
    assert len(list(tmp_path.glob("*.payload"))) == 7


@pytest.mark.usefixtures("impatient")
def test_a_server_killed_and_restarted_under_a_running_loader_changes_nothing(
    own_server: S3Server, ellipsoids: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = by_position(take(loader(ellipsoids), 5))
    source = loader(own_server.upload(ellipsoids))
    batches = [next(source)]
    own_server.kill()
    waits = []

    def restart(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            own_server.start()
            own_server.upload(ellipsoids)

    monkeypatch.setattr("mri_fm.data.retry.time", SimpleNamespace(sleep=restart))
    batches += take(source, 4)
    assert len(waits) == 2
    assert by_position(batches) == expected
    assert not any(batch.skips for batch in batches)


@pytest.mark.usefixtures("impatient")
def test_a_server_that_stays_dead_stops_the_run_with_its_reason(own_server: S3Server, ellipsoids: Path) -> None:
    source = loader(own_server.upload(ellipsoids), config(skip_budget=3))
    next(source)
    own_server.kill()
    with pytest.raises(ResumableError, match=r"the storage is away: vol.*did not answer in time.*the same command goes on"):
        take(source, 10)
    source.close()


def test_addresses_are_compared_as_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert same_place("corpus", tmp_path / "corpus")
    assert same_place("s3://bucket/x", "s3://bucket/x/")
    assert not same_place("s3://bucket/x", "s3://bucket/y")
    assert isinstance(open_storage("corpus"), LocalStorage)
