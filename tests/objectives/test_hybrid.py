import pytest
import torch

from mri_fm.inputs import Inputs
from mri_fm.model_config import HeadConfig, ModelConfig
from mri_fm.objectives import JEPA, MAE
from mri_fm.objectives.hybrid import Hybrid

SIZE = (8, 16, 16)
HEAD = HeadConfig(width=24, depth=1, heads=3)
MODEL = ModelConfig(width=24, depth=2, heads=3, patch=[4, 4, 8], predictor=HEAD, decoder=HEAD)
POSITIONS = torch.tensor([7, 3, 12])


def volumes() -> torch.Tensor:
    return torch.randn(3, 1, *SIZE, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("weight", [0.0, 1.0, 0.3])
def test_the_loss_is_that_of_mae_and_jepa_with_the_same_weights(weight):
    hybrid = Hybrid(Hybrid.Config(prediction_weight=weight), MODEL, SIZE, seed=4)
    loss, metrics = hybrid(Inputs(volumes(), POSITIONS, 0), {})
    state = hybrid.state_dict()
    parts = []
    for cls in (MAE, JEPA):
        part = cls(cls.Config(), MODEL, SIZE, seed=4)
        part.load_state_dict({name: state[name] for name in part.state_dict()})
        parts.append(part(Inputs(volumes(), POSITIONS, 0), {})[0])
    torch.testing.assert_close(loss, parts[0] + weight * parts[1])
    torch.testing.assert_close(metrics["loss_reconstruction"], parts[0].detach())


def test_the_student_runs_once_and_both_heads_and_it_are_trained():
    hybrid = Hybrid(Hybrid.Config(), MODEL, SIZE, seed=4)
    calls = []
    hybrid.student.register_forward_hook(lambda *_: calls.append(1))
    hybrid(Inputs(volumes(), POSITIONS, 0), {})[0].backward()
    assert len(calls) == 1
    trained = {name.split(".")[0] for name, p in hybrid.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert trained == {"student", "predictor", "decoder"}


@pytest.mark.parametrize("sets", [1, 3])
def test_the_losses_of_samples_are_those_of_training_over_all_mask_sets(sets):
    hybrid = Hybrid(Hybrid.Config(mask_sets=sets, prediction_weight=0.3), MODEL, SIZE, seed=4)
    inputs = Inputs(volumes(), POSITIONS, 0)
    torch.testing.assert_close(hybrid.sample_losses(inputs).mean(), hybrid(inputs, {})[0].detach())


def test_it_costs_jepa_and_a_decoder():
    def flops(cls):
        return cls(cls.Config(), MODEL, SIZE, seed=4).flops_per_sample()

    encoder_once = flops(JEPA) + flops(MAE) - flops(Hybrid)
    assert 0 < encoder_once < flops(MAE)
