"""Splits and duplicates."""

from hypothesis import given
from hypothesis import strategies as st

from preprocessing.datasets.adapter import Knowledge
from preprocessing.plan import held_out, keep_first, lay_out, plan_shards, shard_size, split_of

fractions = st.floats(0, 0.45)


def test_fractions_are_met_and_splits_do_not_move() -> None:
    names = [f"sub-{i:04d}" for i in range(4000)]
    splits = [split_of(name, val_fraction=0.1, test_fraction=0.2) for name in names]
    assert abs(splits.count("val") / 4000 - 0.1) < 0.02
    assert abs(splits.count("test") / 4000 - 0.2) < 0.02
    assert [split_of(n, val_fraction=0.1, test_fraction=0.0) == "val" for n in names] == [s == "val" for s in splits]
    assert split_of("s0", val_fraction=0.1, test_fraction=0) == "train"  # pinned: a corpus must not be split anew by an update
    assert split_of("s6", val_fraction=0.2, test_fraction=0) == "val"


@given(st.text(), fractions, fractions)
def test_no_fraction_no_split(name: str, val: float, test: float) -> None:
    assert split_of(name, val_fraction=0, test_fraction=test) != "val"
    assert split_of(name, val_fraction=val, test_fraction=0) != "test"


def test_the_built_one_stays_else_the_first_path() -> None:
    hashes = {"b": "x", "a": "x", "c": "y", "d": "x"}
    assert keep_first(hashes, []) == {"x": "a", "y": "c"}
    assert keep_first(hashes, ["d", "gone"]) == {"x": "d", "y": "c"}


@given(
    st.dictionaries(st.text("0123456789abcdef", min_size=4, max_size=4), st.integers(1, 50), max_size=30), st.integers(1, 100)
)
def test_shards_are_a_partition_within_the_limit(sizes: dict[str, int], limit: int) -> None:
    shards = plan_shards(sizes, limit, 0)
    assert sorted(k for shard in shards for k in shard) == sorted(sizes)
    assert all(shard for shard in shards)
    assert all(sum(sizes[k] for k in shard) <= limit for shard in shards if len(shard) > 1)
    assert shards == plan_shards(dict(reversed(list(sizes.items()))), limit, 0)


def test_a_small_split_is_cut_into_several_shards_and_a_large_one_into_full_ones() -> None:
    assert shard_size({"a": 1000}, 10**9) == 32_000_000
    assert shard_size({str(i): 10**7 for i in range(40)}, 10**9) == 5 * 10**7
    assert shard_size({str(i): 10**9 for i in range(40)}, 10**9) == 10**9
    assert shard_size({"a": 10**9}, 1000) == 1000


def test_shards_are_shuffled_differently_for_each_split() -> None:
    sizes = {f"{i:03d}": 1 for i in range(50)}
    (first,), (second,) = plan_shards(sizes, 100, 0), plan_shards(sizes, 100, 1)
    assert first != sorted(sizes)
    assert first != second


def test_new_keys_go_behind_the_old_shards() -> None:
    sizes = {f"k{i}": 10 for i in range(8)}
    splits = {key: "val" if key == "k7" else "train" for key in sizes}
    first = lay_out(dict.fromkeys(("k0", "k1", "k2"), 10), splits, 20, {})
    assert sorted(first) == ["train-000000", "train-000001"]
    second = lay_out(sizes, splits, 20, first)
    assert {name: second[name] for name in first} == first
    assert sorted(set(second) - set(first)) == ["train-000002", "train-000003", "val-000000"]
    assert sorted(key for keys in second.values() for key in keys) == sorted(sizes)


def test_keys_that_are_gone_or_change_their_split_leave_their_shard() -> None:
    earlier = {"train-000000": ["a", "b"], "train-000001": ["c"], "val-000000": ["d"]}
    layout = lay_out({"a": 1, "c": 1, "d": 1}, {"a": "train", "c": "val", "d": "val"}, 10, earlier)
    assert layout == {"train-000000": ["a"], "val-000000": ["d"], "val-000001": ["c"]}


def test_people_are_held_out_with_all_they_share() -> None:
    """By a scan that was itself refused, with the person whose equal scan is kept, and in their own data set alone."""
    found = {
        "refused": Knowledge("IXI", "007", scan_uid="I007"),
        "second": Knowledge("ADNI", "a", scan_uid="I1"),
        "kept": Knowledge("copies", "b"),
        "other": Knowledge("PPMI", "007", scan_uid="I9"),
    }
    stands_for = {"second": "kept", "kept": "kept", "other": "other"}
    assert held_out(found, [("7", "I007"), ("a", "I1")], stands_for) == {("IXI", "007"), ("ADNI", "a"), ("copies", "b")}
    assert held_out(found, [("8", "I007")], stands_for) == set()
