"""The labels of the semi-synthetic scans: independent by design, read by their oracles, given away by nothing simple."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")


@pytest.fixture(scope="module")
def people():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        from claims.people import load_people

        return load_people(None, most=3)


@pytest.fixture(scope="module")
def renderings(people):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        from claims.rendering import render_all
        from claims.signals import Doses

        return render_all(0, people, 8, Doses())


def test_within_every_person_labels_are_balanced_and_uncorrelated():
    from claims.factorial import LABELS, labels_of

    for person in ("sub-01", "anyone"):
        for block in (0, 8):
            rows = [labels_of(7, person, block + row) for row in range(8)]
            for name in LABELS:
                assert sum(row[name] for row in rows) == 4
            for one, other in itertools.combinations(LABELS, 2):
                assert sum(row[one] and row[other] for row in rows) == 2


def test_over_people_no_label_is_the_product_of_two_others():
    from claims.factorial import LABELS, labels_of

    sign = np.array([[2 * labels_of(0, f"p{p}", r)[name] - 1 for name in LABELS] for p in range(400) for r in range(8)])
    for a, b, c in itertools.combinations(range(len(LABELS)), 3):
        assert abs(np.mean(sign[:, a] * sign[:, b] * sign[:, c])) < 0.2


def test_a_rendering_is_a_function_of_seed_person_and_number(people):
    from claims.rendering import reference_of, render
    from claims.signals import Doses

    doses = Doses()
    reference = reference_of(0, people[0], doses)
    one, again = (render(0, people[0], 3, doses, reference) for _ in range(2))
    assert np.array_equal(one.scan_ZYX, again.scan_ZYX)
    assert not np.array_equal(one.scan_ZYX, render(1, people[0], 3, doses, reference).scan_ZYX)
    assert not np.array_equal(one.scan_ZYX, render(0, people[0], 4, doses, reference).scan_ZYX)


def test_oracles_read_every_label_at_its_dose_and_nothing_without(people, renderings):
    from claims.labels import oracle_cells
    from claims.rendering import render_all
    from claims.signals import Doses

    assert min(value for value, _ in oracle_cells(renderings).values()) > 0.8
    without = oracle_cells(render_all(0, people, 8, Doses().times(0)))
    for value, (low, high) in without.values():
        assert 0.2 < value < 0.8
        assert low - 0.1 <= 0.5 <= high + 0.1


@pytest.mark.parametrize("name", ["sharpness", "texture", "regional", "regional_correlated"])
def test_what_half_the_resolution_holds_does_not_know_a_label_of_detail(people, name):
    """Before scanning; the nonlinear intensity curve folds a little of the detail into what is coarse."""
    from claims import signals
    from claims.bands import halved
    from claims.factorial import LABELS
    from claims.rendering import reference_of, unscanned
    from claims.signals import Doses

    doses = Doses()
    plain = dict.fromkeys(LABELS, 0)
    zero, one = (
        unscanned(0, people[0], 0, doses, reference_of(0, people[0], doses), plain | {name: label})[0] for label in (0, 1)
    )
    coarse, all_of_it = np.std(halved(one) - halved(zero)), np.std(one - zero)
    assert coarse < 0.1 * all_of_it
    assert signals.K == 12


def test_a_label_of_detail_leaves_the_radial_spectrum_but_texture(people):
    from claims.bands import detail, radial_power
    from claims.factorial import LABELS
    from claims.rendering import reference_of, unscanned
    from claims.signals import Doses

    reference, plain = reference_of(0, people[0], Doses()), dict.fromkeys(LABELS, 0)

    def spectrum(labels: dict[str, int]) -> np.ndarray:
        return np.log(radial_power(detail(unscanned(0, people[0], 0, Doses(), reference, labels)[0])))[8:]

    for name in ("sharpness", "regional", "regional_correlated", "lesion"):
        assert np.abs(spectrum(plain | {name: 1}) - spectrum(plain)).max() < 0.15
    assert np.abs(spectrum(plain | {"texture": 1}) - spectrum(plain)).max() > 0.3


def test_sharpness_has_the_energy_of_its_sham_and_follows_the_anatomy(people):
    from claims.bands import detail
    from claims.gallery import pair
    from claims.signals import Doses

    zero, one = pair(0, people[0], "sharpness", Doses())
    found = [detail(r.scan_ZYX) * r.frame.inner_ZYX for r in (zero, one)]
    assert np.std(found[0]) == pytest.approx(np.std(found[1]), rel=0.1)
    locked = [np.corrcoef(d.ravel(), one.frame.detail_ZYX.ravel())[0, 1] for d in found]
    assert locked[1] > locked[0] + 0.1


def test_regional_labels_cancel_over_the_head_and_use_regions_of_their_own():
    from claims.signals import pattern

    (own, sign), (other, other_sign) = pattern(False), pattern(True)
    assert sign.sum() == other_sign.sum() == 0
    assert not set(own) & set(other)


def test_the_decorrelated_copy_needs_all_regions_and_the_correlated_one_any():
    from claims.signals import Doses, log_energies, pattern

    rng, labels = np.random.default_rng(0), {"regional": 1, "regional_correlated": 1}
    zero = dict.fromkeys(labels, 0)
    drawn = {k: np.array([log_energies(k_labels, Doses(regional=4, regional_correlated=4), rng) for _ in range(2000)])
             for k, k_labels in ((1, labels), (0, zero))}  # fmt: skip
    for correlated, alone in ((False, 4 / 12**0.5), (True, 4.0)):
        own, sign = pattern(correlated)
        one, other = (drawn[k][:, own] * sign for k in (1, 0))
        distance = (one.mean(0) - other.mean(0)) / other.std(0)
        assert distance == pytest.approx(np.full(12, alone), abs=0.15)
        together = (one.mean(1).mean() - other.mean(1).mean()) / other.mean(1).std()
        assert together == pytest.approx(4.0, abs=0.2)


def test_nothing_of_the_acquisition_depends_on_a_label(people):
    from claims.factorial import LABELS
    from claims.rendering import reference_of, render
    from claims.signals import Doses

    reference = reference_of(0, people[0], Doses())
    drawn = {render(0, people[0], 0, Doses(), reference, labels=dict.fromkeys(LABELS, label)).acquisition for label in (0, 1)}
    assert len(drawn) == 1


def test_a_planted_giveaway_is_seen(renderings):
    """The same probes, with a label that brightens the scan: the proof can fail."""
    from dataclasses import replace

    from claims.labels import probe_cells
    from claims.views import GIVEAWAYS

    brighter = [replace(r, scan_ZYX=r.scan_ZYX * (1.5 if r.labels["sharpness"] else 1.0)) for r in renderings]
    views = {"intensity moments": GIVEAWAYS["intensity moments"]}
    assert probe_cells(brighter, views, 1)["intensity moments"]["sharpness"][0] > 0.9


def test_a_third_of_the_people_is_held_out_by_a_committed_list():
    from claims.people import held_out

    assert held_out(["sub-01", "sub-02", "sub-04", "sub-05"]) == {"sub-01", "sub-05"}
    assert held_out(["a", "b", "c", "d"]) == {"a", "d"}
