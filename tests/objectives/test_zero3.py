"""ZeRO-3 partitions every parameter, during construction too: the objectives must neither notice nor touch a foreign one."""

import pytest
import torch
import torch.distributed as dist

from mri_fm.inputs import Inputs
from mri_fm.model_config import HeadConfig, ModelConfig
from mri_fm.objectives import OBJECTIVES, Objective
from tests.distributed import run_ranks

SIZES = {"width": 24, "depth": 1, "heads": 3, "predictor": HeadConfig(24, 1, 3), "decoder": HeadConfig(24, 1, 3)}
PLAIN = ModelConfig(**SIZES)
EVERY_OPTION = ModelConfig(**SIZES, position="rope", registers=2, qk_norm=True, mlp="swiglu", drop_path=0.5, layer_scale=0.1)
SIZE = (16, 16, 16)
CONFIG = {
    "train_micro_batch_size_per_gpu": 2,
    "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
    "zero_allow_untested_optimizer": True,
    "gradient_clipping": 0.0,  # DeepSpeed's default is 1
}


def join() -> None:
    import deepspeed
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # it would be compiled
    deepspeed.init_distributed("gloo", verbose=False)


def steps(name: str, model: ModelConfig, x: torch.Tensor, rank: int, world: int) -> list[float]:
    import deepspeed

    join()
    with deepspeed.zero.Init(config_dict_or_path=CONFIG):
        objective = OBJECTIVES[name](OBJECTIVES[name].Config(), model, SIZE, 0)
    optimizer = torch.optim.SGD([p for p in objective.parameters() if p.requires_grad], lr=0.1)
    engine, *_ = deepspeed.initialize(model=objective, optimizer=optimizer, config=CONFIG)
    losses = []
    for _ in range(2):
        loss, _ = engine(Inputs(x[rank::world], torch.arange(4)[rank::world], 0), {"spectral_weight": 0.01})
        engine.backward(loss)
        engine.step()
        mean = loss.detach().clone()
        dist.all_reduce(mean)
        losses.append(mean.item() / world)
    return losses


def reaching_the_objective(inputs: Inputs) -> tuple[bool, torch.dtype, bool]:
    """Whether a bf16 engine at stage 3 hands on the very same inputs; the loss' dtype, and whether it is finite."""
    import deepspeed

    join()
    objective = OBJECTIVES["jepa_vcr"](OBJECTIVES["jepa_vcr"].Config(), PLAIN, SIZE, 0)
    seen: list[Inputs] = []
    objective.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    optimizer = torch.optim.SGD([p for p in objective.parameters() if p.requires_grad], lr=0.1)
    engine, *_ = deepspeed.initialize(model=objective, optimizer=optimizer, config=CONFIG | {"bf16": {"enabled": True}})
    loss, _ = engine(inputs, {})
    engine.backward(loss)
    return seen[0] is inputs, loss.dtype, bool(loss.isfinite())


def test_inputs_pass_the_engine_as_they_are():
    """DeepSpeed casts, copies and rebuilds the tensors, lists and dictionaries that it recognises."""
    inputs = Inputs(torch.randn(2, 1, *SIZE), torch.arange(2), 0, torch.ones(2, 1, *SIZE, dtype=torch.bool), torch.ones(2, 3))
    assert run_ranks(lambda rank: reaching_the_objective(inputs), 1) == [(True, torch.float32, True)]


def plain_steps(objective: Objective, x: torch.Tensor) -> list[float]:
    optimizer = torch.optim.SGD([p for p in objective.parameters() if p.requires_grad], lr=0.1)
    losses = []
    for _ in range(2):
        loss, _ = objective(Inputs(x, torch.arange(4), 0), {"spectral_weight": 0.01})
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.slow
@pytest.mark.parametrize("model", [PLAIN, EVERY_OPTION], ids=["plain", "every_option"])
@pytest.mark.parametrize("name", ["mae_spectral", "jepa_vcr", "jepa_sigreg"])
def test_two_partitioned_ranks_train_like_one_plain_process(name, model):
    x = torch.randn(4, 1, *SIZE, generator=torch.Generator().manual_seed(0))
    expected = plain_steps(OBJECTIVES[name](OBJECTIVES[name].Config(), model, SIZE, 0), x)
    for losses in run_ranks(lambda rank: steps(name, model, x, rank, 2), 2):
        assert losses == pytest.approx(expected, abs=1e-6)
