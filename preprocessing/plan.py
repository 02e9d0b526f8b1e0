"""The frozen plan: what becomes of each input, which split each person is in, which shard holds which key."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

import xxhash

from mri_fm.data.schema import SPLITS
from mri_fm.data.split_files import Scan, same_subject
from mri_fm.rng import Stream, generator
from preprocessing.datasets.adapter import Knowledge

SMALLEST_SHARD, SHARDS_OF_SMALL = 32_000_000, 8
SALT = "mri-fm/"  # a change moves every subject to another split


def split_of(subject: str, *, val_fraction: float, test_fraction: float) -> str:
    """The split of a person: a hash of the name against fixed thresholds, so that new data moves nobody."""
    position = xxhash.xxh3_64_intdigest(f"{SALT}{subject}".encode()) / 2.0**64
    if position < val_fraction:
        return "val"
    return "test" if position >= 1.0 - test_fraction else "train"


def keep_first(hashes: dict[str, str], built: Iterable[str]) -> dict[str, str]:
    """Choose which of several equal volumes stays.

    Args:
        hashes: source path → content hash.
        built: source paths that an earlier build accepted; they win.

    Returns:
        content hash → the source path that stays.
    """
    earlier = set(built)
    kept: dict[str, str] = {}
    for path in sorted(hashes, key=lambda p: (p not in earlier, p)):
        kept.setdefault(hashes[path], path)
    return kept


def held_out(knowledge: Mapping[str, Knowledge], scans: Iterable[Scan], stands_for: Mapping[str, str]) -> set[tuple[str, str]]:
    """The people, as (data set, subject), who must not be trained on.

    Args:
        knowledge: by source path.
        scans: of split files; each holds its whole person back.
        stands_for: source path → the path that is kept of its duplicates, whose person is held back with it.
    """
    listed: dict[str, list[str]] = defaultdict(list)
    for subject, uid in scans:
        listed[uid].append(subject)
    paths = [path for path, k in knowledge.items() if any(same_subject(s, k.subject) for s in listed.get(k.scan_uid, ()))]
    people = {knowledge[path].person for path in paths}
    return people | {knowledge[kept].person for path, kept in stands_for.items() if knowledge[path].person in people}


def shard_size(sizes: dict[str, int], shard_bytes: int) -> int:
    """At most `shard_bytes`; less for a small split, which would else be one shard and so the work of one process.

    It depends on the samples alone, not on the machine. `sizes`: payload bytes of each key.
    """
    return min(shard_bytes, max(SMALLEST_SHARD, sum(sizes.values()) // SHARDS_OF_SMALL))


def plan_shards(sizes: dict[str, int], shard_bytes: int, stream_position: int) -> list[list[str]]:
    """Shuffle keys and cut them into shards.

    Args:
        sizes: payload bytes of each key.
        shard_bytes: a shard is closed before it would exceed this (one sample may, alone).
        stream_position: which shuffle, one per split.

    Returns:
        The keys of each shard in the order of writing; it depends on the set of keys, not on the order of `sizes`.
    """
    keys = sorted(sizes)
    order = generator(0, Stream.SHUFFLE, stream_position).permutation(len(keys))
    shards: list[list[str]] = []
    filled = shard_bytes
    for key in (keys[i] for i in order):
        if filled + sizes[key] > shard_bytes or not shards:
            shards.append([])
            filled = 0
        shards[-1].append(key)
        filled += sizes[key]
    return shards


def lay_out(
    sizes: dict[str, int], splits: dict[str, str], shard_bytes: int, earlier: dict[str, list[str]]
) -> dict[str, list[str]]:
    """Which keys each shard holds, by its name without suffix.

    Shards of an earlier build stay as they are but for keys that are gone; new keys go into new shards behind them.

    Args:
        sizes: payload bytes of each key.
        splits: the split of each key.
        shard_bytes: see `plan_shards`.
        earlier: the layout of the earlier build; empty for a new corpus.
    """
    kept = {name: [key for key in keys if splits.get(key) == _split_in(name)] for name, keys in earlier.items()}
    layout = {name: keys for name, keys in kept.items() if keys}
    placed = {key for keys in layout.values() for key in keys}
    for position, split in enumerate(SPLITS):
        new = {key: size for key, size in sizes.items() if splits[key] == split and key not in placed}
        first = 1 + max((int(name.rpartition("-")[2]) for name in layout if _split_in(name) == split), default=-1)
        for number, keys in enumerate(plan_shards(new, shard_size(new, shard_bytes), position), first):
            layout[f"{split}-{number:06d}"] = keys
    return dict(sorted(layout.items()))


def _split_in(name: str) -> str:
    """The split in the name of a shard."""
    return name.rpartition("-")[0]
