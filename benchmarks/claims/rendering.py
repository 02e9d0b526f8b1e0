"""One rendering of a person: a head with six independent labels, scanned.

Before they are scanned, all renderings of a person that agree in the texture label have nearly the same histogram and nearly
the same radial spectrum of detail, whatever their other labels are; no label but atrophy and lesion touches what is not detail.

Axes: Z/Y/X voxels, P voxels of the head, R radial bins.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from claims import signals
from claims.acquisition import Acquisition, acquire, draw_acquisition
from claims.bands import detail, radial_power, with_radial_power, with_values
from claims.factorial import Draw, drawer, labels_of
from claims.heads import Array, Head
from claims.signals import Doses, Frame, frame_of

ROUNDS = 12  # of setting the histogram and the spectrum of the detail in turn


@dataclass(frozen=True)
class Rendering:
    """A scan and what was put into it; `shrunk` and `frame` are of the head under this rendering's atrophy label."""

    person: str
    number: int
    labels: dict[str, int]
    acquisition: Acquisition
    scan_ZYX: Array
    head: Head
    shrunk: Head
    frame: Frame
    lesion_place: Array
    doses: Doses


@dataclass(frozen=True)
class Reference:
    """What a person's renderings have in common: the head's values; the detail's spectrum for each texture label."""

    sorted_P: Array
    power_R: tuple[Array, Array]


def reference_of(seed: int, head: Head, doses: Doses) -> Reference:
    """Everything at its mean dose: half of a lesion's energy, equal energies in all regions, the head unshrunk."""
    frame, rng = frame_of(head), drawer(seed, head.name, 0, Draw.REFERENCE)
    base_ZYX = head.x_ZYX + signals.sharpened(frame, 1, doses.sharpness, rng)
    base_ZYX = base_ZYX + signals.carried(frame, np.zeros(2 * signals.K), doses.carrier, rng)
    base_ZYX = base_ZYX + signals.lesion(frame, 0, signals.lesion_place(frame, rng), doses.lesion, rng)
    fine, coarse = (base_ZYX + signals.texture(frame, label, doses.texture, rng) for label in (1, 0))
    return Reference(np.sort(coarse[head.inside_ZYX]), (radial_power(detail(coarse)), radial_power(detail(fine))))


def render(
    seed: int, head: Head, number: int, doses: Doses, reference: Reference, labels: dict[str, int] | None = None
) -> Rendering:
    """A function of (seed, the person's name, number) and the doses; so are the labels, where none are given."""
    labels = labels or labels_of(seed, head.name, number)
    x_ZYX, shrunk, frame, place = unscanned(seed, head, number, doses, reference, labels)
    acquisition = draw_acquisition(drawer(seed, head.name, number, Draw.ACQUISITION))
    scan_ZYX = acquire(x_ZYX, head.inside_ZYX, acquisition, drawer(seed, head.name, number, Draw.NOISE))
    return Rendering(head.name, number, labels, acquisition, scan_ZYX, head, shrunk, frame, place, doses)


def unscanned(
    seed: int, head: Head, number: int, doses: Doses, reference: Reference, labels: dict[str, int]
) -> tuple[Array, Head, Frame, Array]:
    """The head with its signals, before it is scanned; the head and frame under atrophy, the lesion's place."""
    rng = {draw: drawer(seed, head.name, number, draw) for draw in Draw}
    shrunk = signals.shrunk(head, labels["atrophy"], doses.atrophy)
    frame = frame_of(shrunk)
    place = signals.lesion_place(frame, rng[Draw.LESION])
    coarse_ZYX = shrunk.x_ZYX + signals.lesion(frame, labels["lesion"], place, doses.lesion, rng[Draw.SHAM])
    x_ZYX = coarse_ZYX + signals.sharpened(frame, labels["sharpness"], doses.sharpness, rng[Draw.SHARPNESS])
    x_ZYX = x_ZYX + signals.texture(frame, labels["texture"], doses.texture, rng[Draw.TEXTURE])
    log_energy = signals.log_energies(labels, doses, rng[Draw.REGIONS])
    x_ZYX = x_ZYX + signals.carried(frame, log_energy, doses.carrier, rng[Draw.CARRIER])
    x_ZYX = equalised(x_ZYX, coarse_ZYX - detail(coarse_ZYX), head, reference, labels["texture"])
    return x_ZYX, shrunk, frame, place


def equalised(x_ZYX: Array, coarse_ZYX: Array, head: Head, reference: Reference, fine: int) -> Array:
    """With nearly the reference's histogram, and its detail with nearly the reference's radial spectrum.

    Only the detail is made so: `coarse_ZYX` is all that half the resolution may hold, and outside the head nothing moves.
    """
    for _ in range(ROUNDS):
        detail_ZYX = detail(with_values(x_ZYX, head.inside_ZYX, reference.sorted_P))
        x_ZYX = coarse_ZYX + with_radial_power(detail_ZYX, reference.power_R[fine])
        x_ZYX = np.where(head.inside_ZYX, x_ZYX, head.x_ZYX)
    return x_ZYX


def render_all(seed: int, heads: list[Head], renderings: int, doses: Doses) -> list[Rendering]:
    """`renderings` of every head."""
    return [
        render(seed, head, number, doses, reference)
        for head in heads
        for reference in [reference_of(seed, head, doses)]
        for number in range(renderings)
    ]
