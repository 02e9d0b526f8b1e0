from hypothesis import given
from hypothesis import strategies as st

from mri_fm.data.sampler import Sampler

counts = st.integers(1, 40)
seeds = st.integers(0, 2**63 - 1)


@given(counts, seeds, st.integers(0, 1000))
def test_every_sample_comes_once_per_epoch(count: int, seed: int, epoch: int) -> None:
    sampler = Sampler(count, seed)
    assert sorted(sampler.index(epoch * count + place) for place in range(count)) == list(range(count))


@given(counts, seeds, st.lists(st.integers(0, 10**6), min_size=1, max_size=20))
def test_a_sample_depends_on_its_position_alone(count: int, seed: int, positions: list[int]) -> None:
    shared = Sampler(count, seed)
    assert [shared.index(p) for p in positions] == [Sampler(count, seed).index(p) for p in positions]


def test_epochs_and_seeds_shuffle_differently() -> None:
    orders = {tuple(Sampler(20, seed).index(epoch * 20 + i) for i in range(20)) for seed in (0, 1) for epoch in range(3)}
    assert len(orders) == 6


@given(st.integers(2, 40), seeds, st.integers(0, 10**9), st.integers(1, 8))
def test_a_substitute_is_another_sample(count: int, seed: int, position: int, tries: int) -> None:
    sampler = Sampler(count, seed)
    chosen = sampler.substitute(position, tries)
    assert 0 <= chosen < count
    assert chosen != sampler.index(position)
    assert chosen == Sampler(count, seed).substitute(position, tries)


def test_substitutes_reach_every_other_sample() -> None:
    sampler = Sampler(6, 3)
    assert {sampler.substitute(4, tries) for tries in range(1, 100)} == set(range(6)) - {sampler.index(4)}


def test_a_lone_sample_has_no_substitute() -> None:
    assert Sampler(1, 0).substitute(7, 1) == 0
