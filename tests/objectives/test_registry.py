import textwrap
from pathlib import Path

import pytest
import torch

import mri_fm.objectives
from mri_fm.config import PRESETS
from mri_fm.errors import UserError
from mri_fm.model_config import HeadConfig, ModelConfig
from mri_fm.objectives import OBJECTIVES, Objective, objective_class

MODEL = ModelConfig(width=24, depth=1, heads=3, predictor=HeadConfig(24, 1, 3), decoder=HeadConfig(24, 1, 3))


def build(name: str, seed: int = 0) -> Objective:
    return OBJECTIVES[name](OBJECTIVES[name].Config(), MODEL, (16, 16, 16), seed)


def test_registry_presets_and_config_names_agree():
    assert {path.stem for path in (PRESETS / "objective").glob("*.yaml")} == set(OBJECTIVES)
    for name, cls in OBJECTIVES.items():
        assert cls.Config().name == name
        assert objective_class(name) is cls


def test_an_unknown_name_is_a_user_error_with_the_nearest():
    with pytest.raises(UserError, match="did you mean 'jepa_vcr'"):
        objective_class("jepa_vrc")


@pytest.mark.parametrize("name", OBJECTIVES)
def test_initial_weights_are_a_function_of_the_seed(name):
    first = build(name).state_dict()
    torch.manual_seed(77)
    assert all(first[key].equal(value) for key, value in build(name).state_dict().items())
    assert not all(first[key].equal(value) for key, value in build(name, seed=1).state_dict().items())


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_example_at_the_top_of_each_file_runs(name):
    text = (Path(mri_fm.objectives.__file__).parent / f"{name}.py").read_text().split('"""')[1]
    example = textwrap.dedent(text[text.index("    import torch") : text.index("\nAxes:")])
    assert len(example.strip().splitlines()) <= 12
    scope: dict[str, object] = {}
    exec(example, scope)
    assert torch.isfinite(scope["loss"])
