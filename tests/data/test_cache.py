"""The node's cache: its limit, its order, damage, a full disk, and processes that share it."""

import multiprocessing
import os
import resource
import signal
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mri_fm.data import cache as cache_module
from mri_fm.data.cache import PayloadCache
from mri_fm.data.corpus import Corpus
from mri_fm.data.reader import ShardReader, open_reader
from mri_fm.errors import UserError
from tests.data.test_loader import by_position, config, loader, take

FORK = multiprocessing.get_context("fork")


def payload(name: str, size: int = 1000) -> bytes:
    return (name.encode() * size)[:size]


def has(cache: PayloadCache, name: str, size: int = 1000) -> bool:
    return cache.get(name, lambda found: found == payload(name, size)) is not None


def held(cache: PayloadCache) -> int:
    """Bytes of all entries at one moment, unfinished ones included."""
    with cache._locked() as total:
        assert total is not None
        entries = [path for path in cache.folder.iterdir() if path.suffix in {".payload", ".partial"}]  # not another's probe
        return sum(path.stat().st_size for path in entries)


def test_what_was_put_is_got_and_what_was_not_is_not(tmp_path: Path) -> None:
    cache = PayloadCache(tmp_path / "new" / "folder", 10_000)
    assert not has(cache, "a")
    cache.put("a", payload("a"))
    assert has(cache, "a")
    assert not has(cache, "../a/b")
    cache.put("../a/b", payload("../a/b"))
    assert has(PayloadCache(cache.folder, 10_000), "../a/b")
    assert len(list(cache.folder.iterdir())) == 3


def test_the_entry_used_longest_ago_makes_room(tmp_path: Path) -> None:
    cache = PayloadCache(tmp_path, 4000)
    for age, name in enumerate("abc"):
        cache.put(name, payload(name))
        os.utime(cache._path(name), (age, age))
    assert has(cache, "a")  # used now
    cache.put("d", payload("d"))
    cache.put("e", payload("e"))
    assert [has(cache, name) for name in "abcde"] == [True, False, False, True, True]
    assert held(cache) <= 4000


def test_nothing_larger_than_the_limit_is_kept_and_nothing_removed_for_it(tmp_path: Path) -> None:
    cache = PayloadCache(tmp_path, 1500)
    cache.put("a", payload("a"))
    cache.put("b", payload("b", 1501))
    assert has(cache, "a")
    assert not has(cache, "b", 1501)


def test_a_smaller_limit_is_kept_from_the_next_entry_on(tmp_path: Path) -> None:
    large = PayloadCache(tmp_path, 10_000)
    for name in "abcdef":
        large.put(name, payload(name))
    PayloadCache(tmp_path, 2500).put("g", payload("g"))
    assert held(large) <= 2500
    assert has(large, "g")


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(b""), lambda path: path.write_bytes(b"x" * 1000)])
def test_a_damaged_entry_is_dropped_and_fetched_again(
    tmp_path: Path, ellipsoids: Path, damage: Callable[[Path], object], caplog: pytest.LogCaptureFixture
) -> None:
    sample = Corpus.open(ellipsoids, "size").samples[0]
    reader = ShardReader(cache=PayloadCache(tmp_path, 10**9))
    expected = reader.read(sample)
    (entry,) = tmp_path.glob("*.payload")
    damage(entry)
    assert np.array_equal(reader.read(sample), expected)
    assert not reader.cached
    assert "was damaged and is fetched again" in caplog.text
    reader.read(sample)
    assert reader.cached


def test_a_total_that_was_lost_is_counted_anew(tmp_path: Path) -> None:
    cache = PayloadCache(tmp_path, 4000)
    for name in "abc":
        cache.put(name, payload(name))
    (tmp_path / "total").write_text("nonsense")
    for name in "def":
        cache.put(name, payload(name))
    assert held(cache) <= 4000
    assert has(cache, "f")


def test_what_a_killed_writer_left_is_removed_once_it_is_old(tmp_path: Path) -> None:
    cache = PayloadCache(tmp_path, 4000)
    old, new = tmp_path / "old.1.partial", tmp_path / "new.2.partial"
    for path in (old, new):
        path.write_bytes(b"x" * 1500)
    os.utime(old, (0, 0))
    (tmp_path / "total").write_text("9999")
    cache.put("a", payload("a"))
    assert [path.exists() for path in (old, new)] == [False, True]
    assert has(cache, "a")


def test_a_full_disk_is_reported_once_and_stops_nothing(
    tmp_path: Path, ellipsoids: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A limit on the size of files makes the kernel refuse a write, as a full disk does."""
    samples = Corpus.open(ellipsoids, "size").samples
    reader, plain = ShardReader(cache=PayloadCache(tmp_path, 10**9)), ShardReader()
    previous, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, previous[1]))
    try:
        read = [reader.read(sample) for sample in samples]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, previous)
        signal.signal(signal.SIGXFSZ, handler)
    assert all(np.array_equal(voxels, plain.read(sample)) for voxels, sample in zip(read, samples, strict=True))
    assert caplog.text.count("takes no more") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["total"]


def hammer(folder: Path, seed: int, failures: "multiprocessing.Queue[str]") -> None:
    """Put what went wrong, or nothing, into `failures`."""
    try:
        get_and_put(folder, seed, failures)
    except BaseException:
        failures.put(traceback.format_exc())
        raise
    failures.put("")


def get_and_put(folder: Path, seed: int, failures: "multiprocessing.Queue[str]") -> None:
    """Get or put entries as a reader does, for a while."""
    cache, rng = PayloadCache(folder, 20_000), np.random.default_rng(seed)
    for _ in range(400):
        name = f"n{rng.integers(40)}"
        found = cache.get(name, lambda content, name=name: content == payload(name))  # type: ignore[misc]
        if found is None:
            cache.put(name, payload(name))
        if held(cache) > 20_000:
            failures.put(f"{held(cache)} bytes")


def test_two_processes_share_a_folder_within_the_limit_and_see_whole_entries(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "_LOCK_WAIT_S", 600.0)  # however busy the machine is
    failures = FORK.Queue()
    children = [FORK.Process(target=hammer, args=(tmp_path, seed, failures), daemon=True) for seed in range(2)]
    for child in children:
        child.start()
    assert [failures.get(timeout=600) for _ in children] == ["", ""]
    for child in children:
        child.join()
        assert child.exitcode == 0
    cache = PayloadCache(tmp_path, 20_000)
    names = [name for name in (f"n{n}" for n in range(40)) if has(cache, name)]
    assert len(names) > 10
    assert "damaged" not in caplog.text
    assert not list(tmp_path.glob("*.partial"))


def test_a_process_that_is_stopped_or_killed_with_the_lock_delays_no_other_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "_LOCK_WAIT_S", 0.05)
    cache, held_it = PayloadCache(tmp_path, 10_000), FORK.Event()

    def hold() -> None:
        with cache._locked():
            held_it.set()
            time.sleep(600)

    child = FORK.Process(target=hold, daemon=True)
    child.start()
    assert held_it.wait(300)
    cache.put("a", payload("a"))
    assert not has(cache, "a")
    child.kill()
    child.join()
    cache.put("a", payload("a"))
    assert has(cache, "a")


def test_a_loader_reads_what_it_read_before_from_the_cache(ellipsoids: Path, tmp_path: Path) -> None:
    plain = take(loader(ellipsoids), 4)
    first = take(loader(ellipsoids, config(cache_dir=str(tmp_path))), 4)
    again = take(loader(ellipsoids, config(cache_dir=str(tmp_path)), rank=1, world=2), 4)
    assert by_position(first) == by_position(plain)
    assert by_position(again).items() <= by_position(take(loader(ellipsoids), 4)).items()
    assert sum(batch.cached for batch in first) == 16 - 7  # each of the seven volumes is fetched once
    assert sum(batch.cached for batch in again) == 8
    assert sum(batch.cached for batch in plain) == 0


def test_a_folder_that_cannot_be_written_is_one_line_before_training(ellipsoids: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    storage = Corpus.open(ellipsoids, "size").storage
    for folder in (tmp_path / "file", Path("/proc/cache")):
        with pytest.raises(UserError, match=rf"data\.cache_dir={folder} cannot be written \(.*\): give a folder of yours"):
            open_reader(storage, config(cache_dir=str(folder)))
