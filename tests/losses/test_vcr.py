import logging

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mri_fm.losses import vcr
from mri_fm.losses.vcr import variance_covariance
from tests.distributed import run_ranks


def tokens(batch: int = 4, scale: float = 0.7) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    mixing = torch.randn(6, 6, generator=generator, dtype=torch.float64) * scale
    context, target = (torch.randn(batch, n, 6, generator=generator, dtype=torch.float64) @ mixing + 2 for n in (3, 5))
    return context, target


def written_out(context: Tensor, target: Tensor, aligned: bool) -> tuple[float, float]:
    z = np.concatenate([context.numpy(), target.numpy()], axis=1)
    covariance = np.cov(z.reshape(-1, z.shape[2]), rowvar=False)
    variance = z.var(axis=0, ddof=1) if aligned else np.diag(covariance)
    off = covariance - np.diag(np.diag(covariance))
    return np.maximum(0, 1 - np.sqrt(variance + 1e-4)).mean(), (off**2).sum() / z.shape[2]


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("batch", [2, 5])
def test_equals_the_definition_in_float64(aligned, batch):
    context, target = tokens(batch)
    variance, covariance = variance_covariance(context, target, aligned=aligned)
    expected = written_out(context, target, aligned)
    assert (variance.item(), covariance.item()) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("aligned", [True, False])
def test_gradcheck(aligned):
    context, target = tokens(3, scale=0.3)
    context.requires_grad_()
    assert torch.autograd.gradcheck(lambda c: variance_covariance(c, target, aligned=aligned), (context,))


def test_the_target_gets_no_gradient():
    context, target = tokens()
    loss = sum(variance_covariance(context.requires_grad_(), target.requires_grad_()))
    assert torch.autograd.grad(loss, target, allow_unused=True)[0] is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_statistics_are_float32_under_autocast(dtype):
    context, target = (x.to(dtype) for x in tokens(8))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = variance_covariance(context, target)
    assert all(x.dtype == torch.float32 for x in losses)
    expected = written_out(context.double(), target.double(), True)
    assert [x.item() for x in losses] == pytest.approx(expected, rel=1e-5)


def test_a_large_mean_costs_no_precision():
    context, target = (x.float() + 1000 for x in tokens(8))
    losses = variance_covariance(context, target)
    assert [x.item() for x in losses] == pytest.approx(written_out(context.double(), target.double(), True), rel=1e-3)


def test_one_sample_is_finite_with_zero_variance_gradient_and_one_warning(caplog):
    vcr._warn_single_sample.cache_clear()
    context, target = tokens(1)
    context.requires_grad_()
    with caplog.at_level(logging.WARNING):
        variance, covariance = variance_covariance(context, target)
        variance_covariance(context, target)
    assert len(caplog.records) == 1
    assert variance.item() == 0
    assert (torch.autograd.grad(variance, context, retain_graph=True)[0] == 0).all()
    assert covariance.item() == pytest.approx(written_out(context.detach(), target, False)[1])
    assert torch.autograd.grad(covariance, context)[0].abs().max() > 0


def test_one_sample_has_a_variance_over_all_rows():
    context, target = tokens(1)
    variance, _ = variance_covariance(context, target, aligned=False)
    assert variance.item() == pytest.approx(written_out(context, target, False)[0])


def test_a_single_row_is_finite():
    context = torch.randn(1, 1, 6, requires_grad=True)
    losses = variance_covariance(context, torch.empty(1, 0, 6), aligned=False)
    assert [x.item() for x in losses] == [0, 0]
    sum(losses).backward()
    assert (context.grad == 0).all()


def test_constant_features_are_pushed_apart_with_finite_gradients():
    context = torch.zeros(3, 2, 6, requires_grad=True)
    variance, covariance = variance_covariance(context, torch.zeros(3, 2, 6))
    assert variance.item() == pytest.approx(0.99)
    assert covariance.item() == 0
    (variance + covariance).backward()
    assert context.grad.isfinite().all()


def test_gamma_and_eps_are_used():
    context, target = tokens()
    far, _ = variance_covariance(context, target, gamma=100.0)
    farther, _ = variance_covariance(context, target, gamma=101.0)
    assert (farther - far).item() == pytest.approx(1.0)
    assert variance_covariance(torch.zeros(2, 1, 3), torch.zeros(2, 1, 3), eps=0.25)[0].item() == pytest.approx(0.5)


def test_work_and_memory_grow_with_rows_not_with_their_square():
    """One product of rows and width squared forwards, none of rows squared; no tensor beyond the tokens themselves."""
    context, target = (torch.randn(2, n, 6, requires_grad=n == 100) for n in (100, 300))
    with FlopCounterMode(display=False) as forward:
        losses = variance_covariance(context, target)
    assert forward.get_total_flops() == 2 * (2 * 400) * 6 * 6
    with FlopCounterMode(display=False) as backward:
        sum(losses).backward()
    assert backward.get_total_flops() <= 2 * forward.get_total_flops()


@pytest.mark.parametrize("aligned", [True, False])
def test_float32_halves_on_two_ranks_equal_the_whole_to_1e_6(aligned):
    def work(rank: int) -> tuple[list[float], list[float]]:
        dist.init_process_group("gloo")
        context, target = (x.float()[rank::2].clone().requires_grad_() for x in tokens(8, scale=0.3))
        losses = variance_covariance(context, target, aligned=aligned)
        sum(losses).backward()
        # The backward pass sums over ranks and the engine averages: a rank's own share is half of it.
        return [x.item() for x in losses], (context.grad / 2).flatten().tolist()

    context, target = (x.float() for x in tokens(8, scale=0.3))
    losses = variance_covariance(context.requires_grad_(), target, aligned=aligned)
    sum(losses).backward()
    for rank, (values, gradient) in enumerate(run_ranks(work, 2)):
        assert values == pytest.approx([x.item() for x in losses], rel=1e-6)
        expected = context.grad[rank::2].flatten()
        assert (torch.tensor(gradient) - expected).norm() <= 1e-6 * expected.norm()


def gradients(aligned: bool, rank: int, world: int, group: dist.ProcessGroup | None) -> tuple[list[float], Tensor]:
    """Losses, and a layer's gradient on rank's share of eight samples as the engine averages it."""
    torch.manual_seed(0)
    layer = nn.Linear(6, 6).double()
    context, target = tokens(8, scale=0.3)
    losses = variance_covariance(layer(context[rank::world]), target[rank::world], aligned=aligned, group=group)
    (losses[0] + 0.1 * losses[1]).backward()
    gradient = torch.cat([p.grad.flatten() for p in layer.parameters()])
    if world > 1:
        dist.all_reduce(gradient)
        gradient /= world
    return [x.item() for x in losses], gradient


@pytest.mark.parametrize("aligned", [True, False])
def test_two_ranks_equal_one_in_losses_and_averaged_parameter_gradients(aligned):
    def work(rank: int) -> tuple[list[float], list[float]]:
        dist.init_process_group("gloo")
        group = dist.new_group([0, 1]) if aligned else None
        losses, gradient = gradients(aligned, rank, 2, group)
        return losses, gradient.tolist()

    one_losses, one_gradient = gradients(aligned, 0, 1, None)
    for losses, gradient in run_ranks(work, 2):
        assert losses == pytest.approx(one_losses, rel=1e-10)
        assert gradient == pytest.approx(one_gradient.tolist(), rel=1e-8, abs=1e-12)


def test_one_sample_on_each_of_two_ranks_is_a_batch_of_two():
    def work(rank: int) -> list[float]:
        dist.init_process_group("gloo")
        context, target = tokens(2)
        return [x.item() for x in variance_covariance(context[rank : rank + 1], target[rank : rank + 1])]

    expected = pytest.approx(written_out(*tokens(2), True), rel=1e-10)
    assert run_ranks(work, 2) == [expected, expected]
