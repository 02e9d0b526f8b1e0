from dataclasses import replace
from pathlib import Path

import pytest

from mri_fm.data.corpus import Corpus, Sample
from mri_fm.data.sessions import Sessions

SCANS = [("s0", "1", "T1"), ("s1", "1", "T2"), ("s0", "1", "T2"), ("s0", "1", "FLAIR"), ("s0", "2", "T1"), ("s0", "1", "T1")]


@pytest.fixture
def samples(ellipsoids: Path) -> list[Sample]:
    one = Corpus.open(ellipsoids, "size").samples[0]
    return [replace(one, subject=subject, session=session, contrast=contrast) for subject, session, contrast in SCANS]


def test_a_session_is_one_unit(samples: list[Sample]) -> None:
    sessions = Sessions(samples, 2, seed=0)
    assert len(sessions) == 3
    assert [SCANS[sessions.first(unit)][:2] for unit in range(3)] == [("s0", "1"), ("s1", "1"), ("s0", "2")]
    other = Sessions([*samples, replace(samples[0], dataset="other")], 2, seed=0)
    assert len(other) == 4


def test_slots_show_different_contrasts_in_the_order_of_their_names(samples: list[Sample]) -> None:
    sessions = Sessions(samples, 2, seed=3)
    seen = set()
    for position in range(200):
        numbers = [sessions.sample(0, position, slot) for slot in range(2)]
        contrasts = [SCANS[number][2] for number in numbers]
        assert contrasts == sorted(set(contrasts))
        seen.update(numbers)
    assert seen == {0, 2, 3, 5}  # both T1 scans come
    assert sessions.shown(0) == 2


def test_a_session_with_fewer_contrasts_begins_again(samples: list[Sample]) -> None:
    sessions = Sessions(samples, 4, seed=3)
    assert [sessions.shown(unit) for unit in range(3)] == [3, 1, 1]
    contrasts = [SCANS[sessions.sample(0, 5, slot)][2] for slot in range(4)]
    assert contrasts == ["FLAIR", "T1", "T2", "FLAIR"]
    assert {sessions.sample(1, 5, slot) for slot in range(4)} == {1}


def test_a_slot_depends_on_seed_and_position_alone(samples: list[Sample]) -> None:
    first, again = Sessions(samples, 2, seed=3), Sessions(samples, 2, seed=3)
    forwards = [first.sample(0, position, slot) for position in range(50) for slot in range(2)]
    backwards = [again.sample(0, position, slot) for position in reversed(range(50)) for slot in (1, 0)]
    assert forwards == backwards[::-1]
    assert forwards != [Sessions(samples, 2, seed=4).sample(0, position, slot) for position in range(50) for slot in range(2)]
