from unittest import mock

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from mri_fm.config import load_config
from mri_fm.errors import UserError
from mri_fm.inputs import Inputs
from mri_fm.losses.sigreg import sliced_gaussianity
from mri_fm.model_config import HeadConfig, ModelConfig
from mri_fm.objectives.jepa_sigreg import JEPASIGReg
from tests.distributed import run_ranks

SIZE = (8, 16, 16)
MODEL = ModelConfig(width=24, depth=2, heads=3, patch=[4, 4, 8], predictor=HeadConfig(width=24, depth=1, heads=3))
POSITIONS = torch.tensor([7, 3, 12, 5])


def volumes(batch: int = 4) -> Tensor:
    return torch.randn(batch, 1, *SIZE, generator=torch.Generator().manual_seed(2))


def build(**options) -> JEPASIGReg:
    return JEPASIGReg(JEPASIGReg.Config(**options), MODEL, SIZE, seed=4)


@pytest.mark.parametrize("shared", [True, False])
def test_it_adds_the_weighted_regulariser_with_the_slices_of_the_micro_step(shared):
    objective, x = build(sigreg_weight=0.7, slices=5, shared_mask=shared).double(), volumes().double()
    loss, metrics = objective(Inputs(x, POSITIONS, 16), {})
    features = objective.features(Inputs(x, POSITIONS, 16), objective.masks(Inputs(x, POSITIONS, 16)))
    value = sliced_gaussianity(features.context_BVD, features.target_BMD, seed=4, group_position=16, slices=5, aligned=shared)
    torch.testing.assert_close(loss, objective.prediction_loss(features) + 0.7 * value, rtol=1e-12, atol=0)
    assert metrics.keys() == {"loss_prediction", "loss_sigreg"}
    assert metrics["loss_sigreg"].equal(value.detach())
    assert not any(metric.requires_grad for metric in metrics.values())


def test_it_is_not_computed_at_weight_0():
    with mock.patch("mri_fm.objectives.jepa_sigreg.sliced_gaussianity", side_effect=AssertionError):
        loss, metrics = build(sigreg_weight=0.0)(Inputs(volumes(), POSITIONS, 0), {})
    assert metrics.keys() == {"loss_prediction"}
    assert loss.detach().equal(metrics["loss_prediction"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_finite_at_batch_1(dtype):
    objective = build().to(dtype)
    loss, metrics = objective(Inputs(volumes(1), POSITIONS[:1], 7), {})
    loss.backward()
    assert metrics["loss_sigreg"] == 0
    assert loss.dtype == torch.float32
    assert all(p.grad.isfinite().all() for p in objective.parameters() if p.requires_grad)


def test_it_keeps_the_spread_of_features_that_plain_jepa_loses():
    def spread(weight: float) -> float:
        objective, x = build(sigreg_weight=weight), volumes(8)
        positions = torch.arange(8)
        optimizer = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=3e-3)
        for step in range(60):
            optimizer.zero_grad()
            objective(Inputs(x, positions, 8 * step), {})[0].backward()
            optimizer.step()
            with torch.no_grad():
                for teacher, student in objective.ema_pairs():
                    teacher.lerp_(student, 0.1)
        return objective.student(x).std(0).mean().item()

    assert spread(1.0) > 2 * spread(0.0)


def step(rank: int, world: int) -> tuple[list[float], list[float]]:
    """Mean loss over ranks and the averaged gradient of the global batch of four."""
    objective, mine = build().double(), slice(rank, None, world)
    loss, _ = objective(Inputs(volumes().double()[mine], POSITIONS[mine], 0), {})
    loss.backward()
    result = torch.cat([loss.detach().reshape(1), *(p.grad.flatten() for p in objective.parameters() if p.requires_grad)])
    if world > 1:
        dist.all_reduce(result)
        result /= world
    return result[:1].tolist(), result[1:].tolist()


def test_two_ranks_equal_one():
    def work(rank: int) -> tuple[list[float], list[float]]:
        dist.init_process_group("gloo")
        return step(rank, 2)

    loss, gradient = step(0, 1)
    for rank_loss, rank_gradient in run_ranks(work, 2):
        assert rank_loss == pytest.approx(loss, rel=1e-10)
        np.testing.assert_allclose(rank_gradient, gradient, rtol=1e-7, atol=1e-12)


def test_no_slice_is_a_user_error():
    with pytest.raises(UserError, match="slices=0 must be at least 1"):
        load_config("jepa_sigreg", ["objective.slices=0", "data.corpus=C", "run.dir=R"])
