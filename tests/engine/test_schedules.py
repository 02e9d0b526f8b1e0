import numpy as np
import pytest

from mri_fm.config import load_config
from mri_fm.engine.schedules import optimizer_schedules, warmup_cosine
from mri_fm.errors import UserError
from mri_fm.train_config import OptimConfig


def test_warmup_is_linear_and_the_cosine_ends_at_the_end():
    values = warmup_cosine(110, start=1.0, peak=3.0, end=0.5, warmup=10)
    np.testing.assert_allclose(values[:10], np.linspace(1.0, 3.0, 11)[:10])
    assert values[10] == 3.0
    assert values[-1] == pytest.approx(0.5)
    middle = 10 + 99 / 2  # half a cosine is half-way between its ends in the middle
    assert (values[int(middle)] + values[int(middle) + 1]) / 2 == pytest.approx((3.0 + 0.5) / 2)
    assert np.all(np.diff(values[10:]) < 0)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_short_runs_have_finite_values(steps):
    schedules = optimizer_schedules(OptimConfig(warmup=0.5), steps, 8)
    assert {name: values.shape for name, values in schedules.items()} == {"lr": (steps,), "weight_decay": (steps,)}
    assert all(np.isfinite(values).all() for values in schedules.values())


def test_weight_decay_falls_from_the_first_step():
    decay = optimizer_schedules(OptimConfig(), 100, 8)["weight_decay"]
    assert decay[0] == pytest.approx(0.005)
    assert decay[-1] == pytest.approx(0.0005)
    assert np.all(np.diff(decay) < 0)


def test_the_cooldown_preset_is_constant_and_then_a_straight_line():
    optim = load_config("mae", ["optim=cooldown", "optim.warmup=0.1", "data.corpus=C", "run.dir=R"]).optim
    rate = optimizer_schedules(optim, 100, 8)["lr"]
    assert np.all(rate[10:80] == optim.lr)
    np.testing.assert_allclose(np.diff(rate[79:]), (optim.lr_end - optim.lr) / 20)
    assert rate[-1] == pytest.approx(optim.lr_end)


def test_a_cooldown_after_a_cosine_starts_where_the_cosine_ends():
    rate = optimizer_schedules(OptimConfig(lr=1.0, lr_start=0.5, lr_end=0.1, warmup=0.0, cooldown=0.5), 10, 8)["lr"]
    assert rate[4] == pytest.approx(0.1)
    np.testing.assert_allclose(rate[4:], 0.1)


@pytest.mark.parametrize(("rule", "factor"), [("linear", 4.0), ("sqrt", 2.0)])
def test_all_rates_follow_the_global_batch_by_the_rule(rule, factor):
    plain = optimizer_schedules(OptimConfig(), 20, 32)
    scaled = optimizer_schedules(OptimConfig(reference_batch=8, lr_rule=rule), 20, 32)
    np.testing.assert_allclose(scaled["lr"], factor * plain["lr"], rtol=1e-12)
    np.testing.assert_array_equal(scaled["weight_decay"], plain["weight_decay"])
    np.testing.assert_array_equal(optimizer_schedules(OptimConfig(reference_batch=32, lr_rule=rule), 20, 32)["lr"], plain["lr"])


@pytest.mark.parametrize("word", ["lr_rule=cubic", "reference_batch=-1", "layer_decay=0", "layer_decay=1.1"])
def test_options_out_of_range_are_refused_by_name(word):
    with pytest.raises(UserError, match=f"optim.{word.partition('=')[0]}"):
        load_config("mae", ["data.corpus=C", "run.dir=R", f"optim.{word}"])
