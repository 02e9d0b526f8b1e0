"""Pairs across sides: by name, by content, by looks; in blocks as in one piece."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocessing import leakage
from preprocessing.leakage import Leak, Sides, Volume, describe, named_leaks, near_duplicates, similar_pairs


def volume(number: int, subject: str = "", base: str = "", content: str = "", corpus: str = "c") -> Volume:
    return Volume(corpus, f"k{number}", "d", subject or f"s{number}", f"I{number}", base, content or f"h{number}")


def two_sides(first: list[bool]) -> Sides:
    members = np.array([first, [not value for value in first]]).T
    return Sides(("train", "test"), members, ~np.eye(2, dtype=bool))


@given(st.integers(1, 40), st.integers(0, 2**32 - 1), st.integers(1, 9))
def test_blocks_find_what_one_product_finds(number: int, seed: int, block: int) -> None:
    rows = np.random.default_rng(seed).normal(size=(number, 4)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    product = rows @ rows.T
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leakage, "BLOCK", block)
        found = {(int(a), int(b)) for x, y, _ in similar_pairs(rows, 0.6) for a, b in zip(x, y, strict=True)}
    clear = np.abs(product - 0.6) > 1e-5
    for a in range(number):
        for b in range(a + 1, number):
            assert not clear[a, b] or ((a, b) in found) == (product[a, b] >= 0.6)
    assert all(a < b for a, b in found)


def test_subjects_anatomies_and_contents_leak_across_sides_only() -> None:
    volumes = [volume(0, "a"), volume(1, "a"), volume(2, "b", "m"), volume(3, "c", "m"), volume(4, content="x"),
               volume(5, content="x"), volume(6), volume(7)]  # fmt: skip
    sides = two_sides([True, False] * 4)
    assert {(leak.kind, leak.first, leak.second) for leak in named_leaks(volumes, sides)} == {
        ("subject", 0, 1), ("subject", 2, 3), ("duplicate", 4, 5)}  # fmt: skip
    assert named_leaks(volumes, two_sides([True, True, False, False, True, True, False, False])) == []


def test_an_anatomy_has_a_name_within_its_corpus_only_and_a_subject_everywhere() -> None:
    volumes = [volume(0, "a", "m"), volume(1, "b", "m", corpus="other"), volume(2, "e"), volume(3, "e", corpus="other")]
    leaks = named_leaks(volumes, two_sides([True, False, True, False]))
    assert [(leak.kind, leak.first, leak.second) for leak in leaks] == [("subject", 2, 3)]


def test_one_volume_in_two_groups_leaks_and_groups_that_may_overlap_do_not() -> None:
    members = np.array([[True, True, True]])
    sides = Sides(("a", "b", "c"), members, np.array([[0, 1, 0], [1, 0, 0], [0, 0, 0]], bool))
    assert named_leaks([volume(0)], sides) == [Leak("subject", 0, 0, 1.0, ("a", "b"))]


def test_looks_count_between_different_people_across_sides() -> None:
    rows = np.array([[1, 0], [1, 0], [0.9, 0.43589], [0, 1], [1, 0]], np.float32)
    volumes = [volume(0), volume(1), volume(2), volume(3), volume(4, "s0")]
    sides = two_sides([True, False, False, False, False])
    leaks = near_duplicates(rows, volumes, sides, 0.8)
    assert [(leak.first, leak.second, round(leak.similarity, 2), leak.groups) for leak in leaks] == [
        (0, 1, 1.0, ("train", "test")), (0, 2, 0.9, ("train", "test"))]  # fmt: skip
    row = describe(leaks[1], volumes)
    assert (row["kind"], row["similarity"], row["scan_uid_a"], row["group_b"]) == ("near_duplicate", "0.900", "I0", "test")
