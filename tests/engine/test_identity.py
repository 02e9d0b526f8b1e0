from typing import Any

from mri_fm.config import load_config
from mri_fm.engine.identity import differences, identity


def of(*words: str, objective: str = "mae") -> dict[str, Any]:
    return identity(load_config(objective, ["data.corpus=C", "run.dir=R", *words]), "hash", "fp32")


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
