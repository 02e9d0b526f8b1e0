"""Input that leaves little to learn from: every objective is finite, or says before the first step what to change."""

from dataclasses import fields, replace

import pytest
import torch

from mri_fm.config import load_config
from mri_fm.errors import UserError
from mri_fm.inputs import Inputs
from mri_fm.objectives import OBJECTIVES, Objective
from tests.objectives.variants import ALL, PLAIN, SCHEDULE, build, inputs


def constant(batch: int, value: float) -> Inputs:
    given = inputs(batch)
    return replace(given, x_BCZYX=torch.full_like(given.x_BCZYX, value))


def background(batch: int) -> Inputs:
    given = constant(batch, 0.0)  # what the loader makes of an empty volume
    return replace(given, foreground_BCZYX=torch.zeros_like(given.foreground_BCZYX))


def no_weights(name: str) -> dict[str, float]:
    default = OBJECTIVES[name].Config()
    return {f.name: 0.0 for f in fields(default) if f.name.endswith("_weight") and isinstance(getattr(default, f.name), float)}


CASES = {
    "a batch of one": lambda name: (inputs(1), {}),
    "constant volumes": lambda name: (constant(2, -1.5), {}),
    "background alone": lambda name: (background(2), {}),
    "one token hidden": lambda name: (inputs(), {"mask_ratio": 1e-6}),
    "one token visible": lambda name: (inputs(), {"mask_ratio": 1 - 1e-6}),
    "weights of zero": lambda name: (inputs(), no_weights(name)),
}


def assert_finite_step(objective: Objective, given: Inputs) -> None:
    loss, metrics = objective(given, SCHEDULE)
    loss.backward()
    assert loss.dtype == torch.float32
    assert all(value.isfinite() for value in (loss, *metrics.values()))
    gradients = [p.grad for p in objective.parameters() if p.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("name", "variant"), ALL)
def test_loss_and_gradient_are_finite(name, variant, case):
    given, changes = CASES[case](name)
    assert_finite_step(build(name, variant, **changes), given)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("name", "variant"), ALL)
def test_they_are_in_low_precision_too(name, variant, dtype):
    objective = build(name, variant).to(dtype)
    for given in (background(1), inputs(2)):
        assert_finite_step(objective, given)


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("objective.mask_ratio=0", "mask_ratio=0.0 must lie between 0 and 1, for instance"),
        ("objective.mask_ratio=1", "mask_ratio=1.0 must lie between 0 and 1, for instance"),
        ("objective.mask_ratio=.nan", "mask_ratio=nan must lie between 0 and 1, for instance"),
        ("objective.token_budget=-0.1", "token_budget=-0.1 must lie in"),
        ("data.size=[32,60,64]", "height 60 does not divide by the patch of 8; take a multiple of it"),
        ("train.global_batch=0", "train.global_batch=0 must be at least 1"),
        ("train.precision=fp16", "train.precision=fp16 is not one of auto, bf16, fp32"),
    ],
)
def test_what_cannot_be_trained_is_refused_when_the_configuration_is_read(name, word, message):
    with pytest.raises(UserError, match=message) as caught:
        load_config(name, [word, "data.corpus=C", "run.dir=R"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", ["-0.1", ".nan", ".inf"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_weights_that_are_none_are_refused(name, value):
    keys = list(no_weights(name)) + (["gamma"] if name == "jepa_vcr" else [])
    for key in keys:
        with pytest.raises(UserError, match=f"objective.{key}=.* must be 0 or more"):
            load_config(name, [f"objective.{key}={value}", "data.corpus=C", "run.dir=R"])


@pytest.mark.parametrize("value", ["0.5", "-1", ".nan", ".inf"])
def test_a_power_without_a_bounded_gradient_is_refused(value):
    with pytest.raises(UserError, match=r"objective\.power=.* must be 1 or more"):
        load_config("hybrid", [f"objective.power={value}", "data.corpus=C", "run.dir=R"])


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize(
    ("size", "message"),
    [((8, 8, 8), "is a single patch .* larger volumes or smaller patches"), ((8, 12, 8), "take multiples of model.patch")],
)
def test_a_size_that_cannot_be_masked_is_refused_when_the_objective_is_built(name, size, message):
    with pytest.raises(UserError, match=message):
        OBJECTIVES[name](OBJECTIVES[name].Config(), PLAIN, size, seed=0)
