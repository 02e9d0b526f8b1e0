"""The millimetres between voxels, from the inputs through every part of the objectives that counts in them."""

from dataclasses import replace

import pytest
import torch

from mri_fm.inputs import Inputs
from mri_fm.model_config import HeadConfig, ModelConfig
from mri_fm.objectives import OBJECTIVES, Objective

SIZE = (16, 16, 32)
HEAD = HeadConfig(width=24, depth=1, heads=3)
MODEL = ModelConfig(width=24, depth=1, heads=3, position="rope", rope_spacing=True, predictor=HEAD, decoder=HEAD)
SCHEDULE = {"spectral_weight": 0.01}
INPUTS = Inputs(
    torch.randn(2, 1, *SIZE, generator=torch.Generator().manual_seed(2)).double(),
    torch.tensor([5, 6]),
    4,
    spacing_B3=torch.ones(2, 3),
)


def build(name: str, model: ModelConfig = MODEL) -> Objective:
    return OBJECTIVES[name](OBJECTIVES[name].Config(shared_mask=False), model, SIZE, seed=4).double()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_rotary_positions_count_in_the_millimetres_of_each_sample(name):
    objective = build(name)
    isotropic, _ = objective(INPUTS, SCHEDULE)
    thick = replace(INPUTS, spacing_B3=torch.tensor([[4.0, 1.0, 1.0], [1.0, 1.0, 1.0]]))
    assert not objective(thick, SCHEDULE)[0].isclose(isotropic, rtol=1e-10)
    in_patches, _ = build(name, replace(MODEL, rope_spacing=False))(thick, SCHEDULE)
    torch.testing.assert_close(isotropic, in_patches, rtol=1e-13, atol=0)  # 8 voxels of 1 mm are the unit


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_network_needs_the_spacing_and_none_goes_without_unnoticed(name):
    objective = build(name)
    for part in ("teacher", "predictor", "decoder"):
        if hasattr(objective, part):
            given = []
            hook = getattr(objective, part).register_forward_pre_hook(
                lambda _, arguments, named, given=given: given.append(named["spacing_B3"]), with_kwargs=True
            )
            objective(INPUTS, SCHEDULE)
            hook.remove()
            assert all(spacing_B3 is INPUTS.spacing_B3 for spacing_B3 in given)
            assert given
    with pytest.raises(ValueError, match="need the spacing of 2 samples"):
        objective(replace(INPUTS, spacing_B3=None), SCHEDULE)
