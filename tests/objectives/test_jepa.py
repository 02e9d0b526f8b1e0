from unittest import mock

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from mri_fm.errors import UserError
from mri_fm.inputs import Inputs
from mri_fm.losses.vcr import variance_covariance
from mri_fm.model_config import HeadConfig, ModelConfig
from mri_fm.objectives import JEPA, JEPAVCR
from tests.distributed import run_ranks

SIZE = (8, 16, 16)
MODEL = ModelConfig(width=24, depth=2, heads=3, patch=[4, 4, 8], predictor=HeadConfig(width=24, depth=1, heads=3))
POSITIONS = torch.tensor([7, 3, 12, 5])


def volumes(batch: int = 4) -> Tensor:
    return torch.randn(batch, 1, *SIZE, generator=torch.Generator().manual_seed(2))


def build(cls: type[JEPA] = JEPA, **options) -> JEPA:
    """An objective whose teacher is no longer the student."""
    jepa = cls(cls.Config(**options), MODEL, SIZE, seed=4)
    with torch.no_grad():
        for parameter in jepa.teacher.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return jepa


DISTANCES = {
    "l1": torch.abs,
    "l2": torch.square,
    "smooth_l1": lambda d: torch.where(d.abs() < 1, d.square() / 2, d.abs() - 0.5),
}


@pytest.mark.parametrize("distance", DISTANCES)
def test_loss_is_the_mean_distance_to_the_normalised_teacher_in_float64(distance):
    jepa, x = build(distance=distance).double(), volumes().double()
    loss, metrics = jepa(Inputs(x, POSITIONS, 0), {})
    visible_BV, hidden_BM, *_ = jepa.mask(Inputs(x, POSITIONS, 0))
    teacher_BND = jepa.teacher(x)
    mean, std = teacher_BND.mean(-1, keepdim=True), teacher_BND.var(-1, unbiased=False, keepdim=True).add(1e-5).sqrt()
    pred_BMD = jepa.predictor(jepa.student(x, visible_BV), visible_BV, hidden_BM)
    errors = [DISTANCES[distance](pred_BMD[b] - ((teacher_BND - mean) / std)[b, hidden_BM[b]]).mean() for b in range(4)]
    torch.testing.assert_close(loss, torch.stack(errors).mean(), rtol=1e-10, atol=0)
    assert metrics["loss_prediction"].equal(loss.detach())
    assert not metrics["loss_prediction"].requires_grad


def test_an_unknown_distance_is_refused():
    with pytest.raises(UserError, match=r"objective\.distance=l3 .* smooth_l1"):
        JEPA.Config(distance="l3")


def test_loss_of_a_batch_is_the_mean_over_its_samples_wherever_it_is_split():
    jepa, x = build().double(), volumes().double()
    together, _ = jepa(Inputs(x, POSITIONS, 0), {})
    alone = [jepa(Inputs(x[i : i + 1], POSITIONS[i : i + 1], 99), {})[0] for i in range(4)]
    torch.testing.assert_close(together, torch.stack(alone).mean(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("cls", [JEPA, JEPAVCR])
def test_gradients_reach_all_of_student_and_predictor_and_nothing_of_the_teacher(cls):
    jepa = build(cls)
    jepa(Inputs(volumes(), POSITIONS, 0), {})[0].backward()
    for name, parameter in jepa.named_parameters():
        if name.startswith("teacher."):
            assert not parameter.requires_grad, name
            assert parameter.grad is None, name
        else:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name


def test_the_teacher_starts_equal_shares_no_memory_and_always_evaluates():
    jepa = JEPA(JEPA.Config(), MODEL, SIZE, seed=4)
    for teacher, student in jepa.ema_pairs():
        assert teacher.equal(student)
        assert teacher.data_ptr() != student.data_ptr()
    jepa.train()
    assert jepa.student.training
    assert not any(module.training for module in jepa.teacher.modules())


def test_ema_pairs_cover_the_teacher_in_a_fixed_order():
    jepa = build()
    names = [name for name, _ in jepa.teacher.named_parameters()]
    pairs = jepa.ema_pairs()
    assert len(pairs) == len(names)
    for (teacher, student), name in zip(pairs, names, strict=True):
        assert teacher is jepa.teacher.get_parameter(name)
        assert student is jepa.student.get_parameter(name)


def test_momentum_is_linear_over_the_run():
    momentum = build().schedules(5)["ema"]
    assert momentum.dtype == np.float64
    assert momentum.tolist() == pytest.approx([0.998, 0.9985, 0.999, 0.9995, 1.0])
    assert build(ema_start=0.5, ema_end=0.6).schedules(2)["ema"].tolist() == [0.5, 0.6]
    assert build().schedules(1)["ema"].tolist() == [0.998]


def test_the_encoder_is_the_teacher():
    jepa = build()
    assert jepa.encoder() is jepa.teacher


def test_the_prediction_sees_visible_voxels_alone():
    jepa, x = build(), volumes()
    before = jepa.features(Inputs(x, POSITIONS, 0), jepa.masks(Inputs(x, POSITIONS, 0)))
    hidden_BM = jepa.mask(Inputs(x, POSITIONS, 0)).hidden_BM
    hidden = torch.zeros(4, jepa.student.num_tokens, dtype=torch.bool).scatter(1, hidden_BM, True)
    voxels = hidden.reshape(4, 1, *jepa.student.grid)
    for axis, patch in zip((2, 3, 4), jepa.student.patch, strict=True):
        voxels = voxels.repeat_interleave(patch, dim=axis)
    after = jepa.features(Inputs(x + voxels, POSITIONS, 0), jepa.masks(Inputs(x + voxels, POSITIONS, 0)))
    assert after.pred_BMD.equal(before.pred_BMD)
    assert not after.target_BMD.equal(before.target_BMD)


def test_masks_are_per_sample_in_jepa_and_shared_from_the_group_position_in_vcr():
    own_BM = build().mask(Inputs(volumes(), POSITIONS, 0)).hidden_BM
    assert not own_BM[0].equal(own_BM[1])
    shared_BM = build(JEPAVCR).mask(Inputs(volumes(), POSITIONS, 31)).hidden_BM
    assert (shared_BM == shared_BM[0]).all()
    assert not shared_BM.equal(build(JEPAVCR).mask(Inputs(volumes(), POSITIONS, 32)).hidden_BM)


@pytest.mark.parametrize("shared", [True, False])
def test_vcr_is_aligned_where_masks_are_shared_and_pooled_where_they_are_not(shared):
    jepa, x = build(JEPAVCR, shared_mask=shared).double(), volumes().double()
    _, metrics = jepa(Inputs(x, POSITIONS, 0), {})
    features = jepa.features(Inputs(x, POSITIONS, 0), jepa.masks(Inputs(x, POSITIONS, 0)))
    variance, other = (
        variance_covariance(features.context_BVD, features.target_BMD, aligned=aligned)[0] for aligned in (shared, not shared)
    )
    torch.testing.assert_close(metrics["loss_variance"], variance.detach())
    assert not torch.isclose(variance, other)


def test_vcr_adds_its_weighted_terms():
    jepa, x = build(JEPAVCR).double(), volumes().double()
    loss, metrics = jepa(Inputs(x, POSITIONS, 0), {})
    features = jepa.features(Inputs(x, POSITIONS, 0), jepa.masks(Inputs(x, POSITIONS, 0)))
    variance, covariance = variance_covariance(features.context_BVD, features.target_BMD)
    prediction = (features.pred_BMD - features.target_BMD).abs().mean()
    torch.testing.assert_close(loss, prediction + 0.25 * (1.0 * variance + 0.1 * covariance), rtol=1e-12, atol=0)
    assert metrics.keys() == {"loss_prediction", "loss_variance", "loss_covariance"}
    assert metrics["loss_variance"].equal(variance.detach())
    assert metrics["loss_covariance"].equal(covariance.detach())
    assert not any(m.requires_grad for m in metrics.values())


def test_vcr_is_not_computed_at_weight_0():
    jepa = build(JEPAVCR, vcr_weight=0.0)
    with mock.patch("mri_fm.objectives.jepa_vcr.variance_covariance", side_effect=AssertionError):
        loss, metrics = jepa(Inputs(volumes(), POSITIONS, 0), {})
    assert metrics.keys() == {"loss_prediction"}
    assert loss.detach().equal(metrics["loss_prediction"])


def test_vcr_is_finite_at_batch_1():
    jepa = build(JEPAVCR)
    loss, metrics = jepa(Inputs(volumes(1), POSITIONS[:1], 7), {})
    loss.backward()
    assert loss.isfinite()
    assert metrics["loss_variance"] == 0
    assert all(p.grad.isfinite().all() for p in jepa.parameters() if p.requires_grad)


def step(cls: type[JEPA], rank: int, world: int) -> tuple[list[float], list[float]]:
    """Mean loss over ranks and the averaged gradient of the global batch of four."""
    jepa, mine = build(cls).double(), slice(rank, None, world)
    loss, _ = jepa(Inputs(volumes().double()[mine], POSITIONS[mine], 0), {})
    loss.backward()
    result = torch.cat([loss.detach().reshape(1), *(p.grad.flatten() for p in jepa.parameters() if p.requires_grad)])
    if world > 1:
        dist.all_reduce(result)
        result /= world
    return result[:1].tolist(), result[1:].tolist()


@pytest.mark.parametrize("cls", [JEPA, JEPAVCR])
def test_two_ranks_equal_one(cls):
    def work(rank: int) -> tuple[list[float], list[float]]:
        dist.init_process_group("gloo")
        return step(cls, rank, 2)

    loss, gradient = step(cls, 0, 1)
    for rank_loss, rank_gradient in run_ranks(work, 2):
        assert rank_loss == pytest.approx(loss, rel=1e-10)
        np.testing.assert_allclose(rank_gradient, gradient, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("cls", [JEPA, JEPAVCR])
@pytest.mark.parametrize("autocast", [True, False])
def test_losses_are_float32_under_bf16(cls, autocast):
    jepa, x = build(cls), volumes()
    exact, _ = jepa(Inputs(x, POSITIONS, 0), {})
    if not autocast:
        jepa = jepa.to(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        loss, metrics = jepa(Inputs(x, POSITIONS, 0), {})
    loss.backward()
    assert all(value.dtype == torch.float32 for value in (loss, *metrics.values()))
    assert loss.item() == pytest.approx(exact.item(), rel=2e-2)
