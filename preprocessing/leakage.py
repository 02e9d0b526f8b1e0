"""Leaks: one person, or one anatomy, on two sides that must not share any.

Axes: N volumes, D features of a fingerprint, G groups, P pairs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK = 2048
SUBJECT, DUPLICATE, NEAR_DUPLICATE = "subject", "duplicate", "near_duplicate"

Bools = NDArray[np.bool_]
Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Volume:
    """A volume as it is named in a report: the address of its corpus, and the columns of its manifest's row."""

    corpus: str
    key: str
    dataset: str
    subject: str
    scan_uid: str
    base: str
    content_hash: str

    def identities(self) -> tuple[tuple[str, ...], ...]:
        """What it shares with others of the same person, anatomy or content; anatomies have names within a corpus only."""
        anatomy = ("anatomy", self.corpus, self.base) if self.base else ("volume", self.corpus, self.key)
        return (SUBJECT, self.dataset, self.subject), anatomy, (DUPLICATE, self.content_hash)


@dataclass(frozen=True)
class Sides:
    """Which volumes must be kept apart.

    Attributes:
        names: of the groups.
        member_NG: which volume is in which group.
        apart_GG: which groups must share nobody; symmetric.
    """

    names: tuple[str, ...]
    member_NG: Bools
    apart_GG: Bools

    def crossing(self, first_P: Ints, second_P: Ints) -> Bools:
        """For pairs of volumes, whether they lie in two groups that must be kept apart."""
        reached = self.member_NG[first_P].astype(np.int32) @ self.apart_GG.astype(np.int32)
        return np.asarray((reached * self.member_NG[second_P]).any(axis=1))

    def between(self, first: int, second: int) -> tuple[str, str]:
        """The first two groups that a pair of volumes crosses."""
        reach_GG = self.member_NG[first][:, None] & self.member_NG[second][None, :] & self.apart_GG
        one, other = np.argwhere(reach_GG)[0]
        return self.names[one], self.names[other]


@dataclass(frozen=True)
class Leak:
    """Two volumes (or one, twice) on two sides: `subject`, `duplicate` or `near_duplicate`, and how similar they are."""

    kind: str
    first: int
    second: int
    similarity: float
    groups: tuple[str, str]


def named_leaks(volumes: Sequence[Volume], sides: Sides) -> list[Leak]:
    """Leaks that names and hashes tell, one for each subject, anatomy or content and each two groups that it crosses."""
    members: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for number, volume in enumerate(volumes):
        for identity in volume.identities():
            members[identity].append(number)
    leaks: dict[tuple[int, int, tuple[str, str]], Leak] = {}
    for identity, numbers in members.items():
        kind = DUPLICATE if identity[0] == DUPLICATE else SUBJECT
        for first, second, groups in _crossings(numbers, sides):
            leaks.setdefault((first, second, groups), Leak(kind, first, second, 1.0, groups))
    return list(leaks.values())


def near_duplicates(fingerprint_ND: Floats, volumes: Sequence[Volume], sides: Sides, threshold: float) -> list[Leak]:
    """Volumes that look like one anatomy across groups, but for those whose names tell so already.

    Args:
        fingerprint_ND: unit vectors; similarity is their product.
        volumes: what they are.
        sides: what must be kept apart.
        threshold: the least similarity of a near-duplicate.
    """
    persons = np.unique([f"{v.dataset}\n{v.subject}" for v in volumes], return_inverse=True)[1]
    leaks = []
    for first_P, second_P, similarity_P in similar_pairs(fingerprint_ND, threshold):
        kept_P = sides.crossing(first_P, second_P) & (persons[first_P] != persons[second_P])
        for first, second, similarity in zip(first_P[kept_P], second_P[kept_P], similarity_P[kept_P], strict=True):
            if volumes[first].content_hash != volumes[second].content_hash:
                groups = sides.between(first, second)
                leaks.append(Leak(NEAR_DUPLICATE, int(first), int(second), float(similarity), groups))
    return leaks


def similar_pairs(fingerprint_ND: Floats, threshold: float) -> Iterator[tuple[Ints, Ints, Floats]]:
    """Pairs (first < second) at least that similar, block of the product by block."""
    for row in range(0, len(fingerprint_ND), BLOCK):
        for column in range(row, len(fingerprint_ND), BLOCK):
            similarity = fingerprint_ND[row : row + BLOCK] @ fingerprint_ND[column : column + BLOCK].T
            first_P, second_P = np.nonzero(similarity >= threshold)
            ordered = first_P + row < second_P + column
            first_P, second_P = first_P[ordered], second_P[ordered]
            yield first_P + row, second_P + column, similarity[first_P, second_P]


def _crossings(numbers: list[int], sides: Sides) -> Iterator[tuple[int, int, tuple[str, str]]]:
    """For every two groups kept apart that some volumes share, the first of them in each."""
    first_in: dict[int, int] = {}
    for number in numbers:
        for group in np.flatnonzero(sides.member_NG[number]):
            first_in.setdefault(int(group), number)
    groups = sorted(first_in)
    for place, one in enumerate(groups):
        for other in groups[place + 1 :]:
            if sides.apart_GG[one, other]:
                yield first_in[one], first_in[other], (sides.names[one], sides.names[other])


def describe(leak: Leak, volumes: Sequence[Volume]) -> dict[str, Any]:
    """A leak as a row of the report."""
    row: dict[str, Any] = {"kind": leak.kind, "similarity": f"{leak.similarity:.3f}"}
    for side, number, group in (("a", leak.first, leak.groups[0]), ("b", leak.second, leak.groups[1])):
        volume = volumes[number]
        about = {"group": group, "corpus": volume.corpus, "key": volume.key, "dataset": volume.dataset}
        about |= {"subject_id": volume.subject, "scan_uid": volume.scan_uid or volume.key}
        row |= {f"{name}_{side}": value for name, value in about.items()}
    return row
