import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mri_fm.data.sampler import Pool, Sampler, interleave
from mri_fm.rng import Stream, generator

counts = st.integers(1, 40)
seeds = st.integers(0, 2**63 - 1)


@given(counts, seeds, st.integers(0, 1000))
def test_every_sample_comes_once_per_epoch(count: int, seed: int, epoch: int) -> None:
    sampler = Sampler.uniform(count, seed)
    assert sorted(sampler.index(epoch * count + place) for place in range(count)) == list(range(count))


@given(counts, seeds, st.lists(st.integers(0, 10**6), min_size=1, max_size=20))
def test_a_sample_depends_on_its_position_alone(count: int, seed: int, positions: list[int]) -> None:
    shared = Sampler.uniform(count, seed)
    assert [shared.index(p) for p in positions] == [Sampler.uniform(count, seed).index(p) for p in positions]


def test_epochs_and_seeds_shuffle_differently() -> None:
    orders = {
        tuple(Sampler.uniform(20, seed).index(epoch * 20 + i) for i in range(20)) for seed in (0, 1) for epoch in range(3)
    }
    assert len(orders) == 6


@given(st.integers(2, 40), seeds, st.integers(0, 10**9), st.integers(1, 8))
def test_a_substitute_is_another_sample(count: int, seed: int, position: int, tries: int) -> None:
    sampler = Sampler.uniform(count, seed)
    chosen = sampler.substitute(position, tries)
    assert 0 <= chosen < count
    assert chosen != sampler.index(position)
    assert chosen == Sampler.uniform(count, seed).substitute(position, tries)


def test_substitutes_reach_every_other_sample() -> None:
    sampler = Sampler.uniform(6, 3)
    assert {sampler.substitute(4, tries) for tries in range(1, 100)} == set(range(6)) - {sampler.index(4)}


def test_a_lone_sample_has_no_substitute() -> None:
    assert Sampler.uniform(1, 0).substitute(7, 1) == 0


quota_lists = st.lists(st.integers(1, 60), min_size=2, max_size=12)


def pools(sizes: list[int], quotas: list[int]) -> list[Pool]:
    first = [sum(sizes[:c]) for c in range(len(sizes))]
    return [Pool(f"p{c}", np.arange(first[c], first[c] + sizes[c]), q) for c, q in enumerate(quotas)]


mixtures = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 20)), min_size=1, max_size=6).map(
    lambda pairs: pools([size for size, _ in pairs], [quota for _, quota in pairs])
)


@given(quota_lists, seeds)
def test_each_pool_has_its_share_of_any_prefix_within_one(quotas: list[int], seed: int) -> None:
    schedule = np.tile(interleave(quotas, seed), 3)
    taken = np.cumsum(schedule[:, None] == np.arange(len(quotas)), axis=0)
    for pool, quota in enumerate(quotas):
        for n, count in enumerate(taken[:, pool].tolist(), start=1):
            assert abs(count * sum(quotas) - n * quota) < sum(quotas)


def test_a_long_period_keeps_the_bound_and_a_rare_pool() -> None:
    quotas = [1, 20_001, 45_534]
    schedule = interleave(quotas, 4)
    n = np.arange(1, len(schedule) + 1)
    for pool, quota in enumerate(quotas):
        assert np.abs(np.cumsum(schedule == pool) - n * (quota / sum(quotas))).max() < 1


def test_equal_shares_do_not_alternate_in_step_with_the_ranks() -> None:
    even = interleave([50, 50], 0)[::2]
    assert 0.2 < even.mean() < 0.8


@given(mixtures, seeds, st.integers(0, 5))
def test_a_pool_is_exhausted_before_anything_in_it_comes_again(mixed: list[Pool], seed: int, epoch: int) -> None:
    sampler = Sampler(mixed, seed)
    period = sum(pool.quota for pool in mixed)
    for pool in mixed:
        n = len(pool.members)
        needed = (epoch + 1) * n
        drawn = [u for p in range(period * -(-needed // pool.quota)) if (u := sampler.index(p)) in pool.members]
        assert sorted(drawn[epoch * n : needed]) == pool.members.tolist()


@given(mixtures, seeds, st.lists(st.integers(0, 10**9), min_size=1, max_size=10))
def test_a_mixture_is_a_function_of_the_position(mixed: list[Pool], seed: int, positions: list[int]) -> None:
    shared = Sampler(mixed, seed)
    alone = [Sampler(mixed, seed).index(p) for p in positions]
    assert [shared.index(p) for p in positions] == alone
    assert [shared.index(p) for p in reversed(positions)] == alone[::-1]


@given(mixtures, seeds, st.integers(0, 10**9), st.integers(1, 8))
def test_a_substitute_stays_in_its_pool_where_it_can(mixed: list[Pool], seed: int, position: int, tries: int) -> None:
    sampler = Sampler(mixed, seed)
    unit = sampler.index(position)
    chosen = sampler.substitute(position, tries)
    own = next(pool.members for pool in mixed if unit in pool.members)
    assert chosen != unit or sum(len(pool.members) for pool in mixed) == 1
    assert chosen in own or len(own) == 1
    assert chosen == Sampler(mixed, seed).substitute(position, tries)


def test_a_pool_keeps_its_order_whatever_it_is_mixed_with() -> None:
    first, second = pools([20, 30], [1, 1])
    alone, mixed = Sampler([first], 3), Sampler([second, first], 3)
    drawn = [unit for position in range(100) if (unit := mixed.index(position)) < 20]
    assert drawn == [alone.index(position) for position in range(50)]


def test_pools_of_one_size_have_orders_of_their_own() -> None:
    mixed = Sampler(pools([20, 20], [1, 1]), 3)
    drawn = [mixed.index(position) for position in range(40)]
    assert [unit for unit in drawn if unit < 20] != [unit - 20 for unit in drawn if unit >= 20]


def test_a_lone_member_is_replaced_by_any_unit_of_the_other_pools() -> None:
    mixed = Sampler(pools([1, 2, 1], [1, 1, 1]), 3)
    lone = next(position for position in range(3) if mixed.index(position) == 0)
    assert {mixed.substitute(lone, tries) for tries in range(1, 60)} == {1, 2, 3}


def test_the_uniform_stream_is_one_permutation_per_epoch() -> None:
    sampler = Sampler.uniform(50, 9)
    expected = np.concatenate([generator(9, Stream.SHUFFLE, epoch).permutation(50) for epoch in range(2)])
    assert [sampler.index(position) for position in range(100)] == expected.tolist()


@pytest.mark.parametrize("bad", [[], [Pool("a", np.arange(0))], [Pool("a", np.arange(2), 0)]])
def test_pools_without_units_or_quota_are_refused(bad: list[Pool]) -> None:
    with pytest.raises(ValueError, match="at least one pool"):
        Sampler(bad, 0)
