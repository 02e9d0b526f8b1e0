from typing import Any

import pytest

from mri_fm.config import Config, load_config
from mri_fm.engine.identity import differences, identity, other_micro_steps
from mri_fm.errors import UserError


def config_of(*words: str, objective: str = "mae") -> Config:
    return load_config(objective, ["data.corpus=C", "run.dir=R", *words])


def of(*words: str, objective: str = "mae") -> dict[str, Any]:
    return identity(config_of(*words, objective=objective), "hash", "fp32")


def without(saved: dict[str, Any], *keys: str) -> dict[str, Any]:
    """As a version of the code would have written it that did not know these options."""
    values = {key: value for key, value in saved["values"].items() if key not in keys}
    return {"values": values, "at_default": [key for key in saved["at_default"] if key not in keys]}


def test_the_model_belongs_to_it_and_the_length_of_the_run_does_not():
    assert of("train.steps=5") == of("train.steps=6")
    assert differences(of(), of("model.depth=3", "seed=9")) == ["model.depth", "seed"]
    assert differences(of(), of("data.mixture.a=1")) == ["data.mixture"]
    assert "objective.name" in differences(of(), of(objective="jepa"))


def test_how_a_value_is_written_does_not_matter():
    assert differences(of("objective.mask_ratio=0.5"), of("objective.mask_ratio=5e-1")) == []


def test_an_option_that_is_new_must_be_at_its_default():
    key = "model.rope_spacing"
    assert differences(without(of(), key), of()) == []
    assert differences(without(of(), key), of("model.position=rope", f"{key}=true")) == ["model.position", key]


def test_an_option_that_is_gone_must_have_been_at_its_default():
    key = "model.rope_spacing"
    assert differences(of(), without(of(), key)) == []
    assert differences(of("model.position=rope", f"{key}=true"), without(of("model.position=rope"), key)) == [key]


TWO_STEPS, STRICT = "train.accumulation=2", "objective.require_constant_batch=true"


@pytest.mark.parametrize("objective", ["mae", "jepa", "hybrid"])
def test_micro_steps_may_change_where_losses_are_means_over_samples(objective):
    assert differences(of(objective=objective), of(TWO_STEPS, STRICT, objective=objective)) == []
    assert other_micro_steps(of(objective=objective), config_of(TWO_STEPS, STRICT, objective=objective)) is None


@pytest.mark.parametrize(
    ("objective", "words"),
    [
        ("jepa_vcr", ()),
        ("jepa_vcr", ("objective.shared_mask=false",)),
        ("jepa_sigreg", ()),
        ("mae", ("objective.shared_mask=true",)),
    ],
)
def test_micro_steps_that_share_something_change_with_a_warning_or_not_at_all(objective, words):
    saved = of(*words, objective=objective)
    assert other_micro_steps(saved, config_of(*words, objective=objective)) is None
    warning = other_micro_steps(saved, config_of(TWO_STEPS, *words, objective=objective))
    assert warning is not None
    assert "micro-steps of 4 samples instead of 8" in warning
    with pytest.raises(UserError, match=r"require_constant_batch=true .* take train\.accumulation=1"):
        other_micro_steps(saved, config_of(TWO_STEPS, STRICT, *words, objective=objective))


def test_without_their_weights_regularisers_share_nothing():
    plain = ("objective.vcr_weight=0", "objective.shared_mask=false")
    assert other_micro_steps(of(*plain, objective="jepa_vcr"), config_of(TWO_STEPS, *plain, objective="jepa_vcr")) is None
