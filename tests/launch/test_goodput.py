import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.planning.goodput import Failures, daly, expected_goodput, recommend, simulate

HOUR = 3600.0


@pytest.mark.parametrize(("save", "interval"), [(30.0, 600.0), (120.0, 3000.0), (5.0, 200.0)])
def test_the_simulation_agrees_with_the_exact_mean(save, interval):
    failures = Failures(between=8 * HOUR, save=save, restart=300.0)
    simulated = simulate(interval, failures, duration=2000 * HOUR, seed=1)
    # The formula lets a restart fail and be started over, as a short gap does here.
    assert simulated.goodput == pytest.approx(expected_goodput(interval, failures), rel=0.005)
    assert simulated.low < simulated.goodput


def test_the_recommended_interval_is_as_good_as_dalys():
    failures = Failures(between=6 * HOUR, save=60.0, restart=300.0)
    best = recommend(failures, duration=1000 * HOUR)
    assert expected_goodput(best.interval, failures) > 0.998 * expected_goodput(daly(failures), failures)
    assert daly(failures) / 2 < best.interval < daly(failures) * 2


@given(st.floats(0.1, 600), st.floats(HOUR, 1000 * HOUR))
def test_no_interval_beats_dalys(save, between):
    failures = Failures(between, save, restart=60.0)
    best = expected_goodput(daly(failures), failures)
    assert best >= max(expected_goodput(daly(failures) * factor, failures) for factor in (0.3, 0.7, 1.4, 3.0)) - 1e-4


def test_youngs_formula_is_its_first_term():
    failures = Failures(between=1e9, save=1.0, restart=0.0)
    assert daly(failures) == pytest.approx(math.sqrt(2 * 1.0 * 1e9), rel=1e-3)


def test_rare_failures_cost_the_saves_alone():
    quiet = simulate(990.0, Failures(between=1e12, save=10.0, restart=300.0), duration=1e6, seed=0)
    assert quiet.goodput == pytest.approx(0.99, abs=1e-6)
