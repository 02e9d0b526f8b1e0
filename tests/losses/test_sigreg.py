import logging
import math

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from mri_fm.losses import sigreg
from mri_fm.losses.sigreg import draw_slices, sliced_gaussianity, sliced_gaussianity_reference
from tests.distributed import run_ranks

DRAW = {"seed": 3, "group_position": 40}


def tokens(batch: int = 4, width: int = 6, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    context, target = (torch.randn(batch, n, width, generator=generator, dtype=torch.float64) * 1.7 + 0.3 for n in (3, 5))
    return context.to(dtype), target.to(dtype)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("batch", [2, 7])
def test_equals_the_definition_in_value_and_gradient(aligned, batch):
    context, target = tokens(batch)
    context.requires_grad_()
    value = sliced_gaussianity(context, target, slices=9, aligned=aligned, **DRAW)
    a_DK = draw_slices(3, 40, 6, 9, context)
    expected = sliced_gaussianity_reference(torch.cat([context, target], dim=1), a_DK, aligned=aligned)
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=0)
    gradients = [torch.autograd.grad(x, context)[0] for x in (value, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-12)


def test_one_sample_at_0_scores_the_closed_form():
    """∫ (1 − exp(−t²/2))² exp(−t²/2) dt = √(2π) (1 − 2/√2 + 1/√3), up to the 17 trapezoids and the tails."""
    zeros = torch.zeros(2, 1, 4)
    exact = math.sqrt(2 * math.pi) * (1 - math.sqrt(2) + 1 / math.sqrt(3))
    assert sliced_gaussianity(zeros, zeros, **DRAW).item() == pytest.approx(exact, rel=1e-4)


def test_standard_normal_samples_score_what_chance_gives():
    """E T = √(2π) (1 − 1/√3) / n."""
    x = torch.randn(50, 40, 8, generator=torch.Generator().manual_seed(0))
    expected = math.sqrt(2 * math.pi) * (1 - 1 / math.sqrt(3)) / 50
    assert sliced_gaussianity(x, x[:, :0], slices=200, **DRAW).item() == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("collapse", ["constant", "scale", "rank"])
def test_collapsed_features_score_worse_than_healthy_ones(aligned, collapse):
    healthy = torch.randn(32, 6, 16, generator=torch.Generator().manual_seed(0))
    collapsed = {
        "constant": healthy[:1, :1].expand_as(healthy),
        "scale": 0.1 * healthy,
        "rank": healthy[..., :1].expand_as(healthy),
    }[collapse]
    good, bad = (sliced_gaussianity(x, x[:, :0], slices=128, aligned=aligned, **DRAW).item() for x in (healthy, collapsed))
    assert bad > 2 * good


def test_features_that_tell_the_place_alone_pass_pooled_and_fail_aligned():
    place = torch.randn(1, 500, 16, generator=torch.Generator().manual_seed(0)).expand(32, -1, -1)
    pooled, aligned = (sliced_gaussianity(place, place[:, :0], aligned=aligned, **DRAW).item() for aligned in (False, True))
    assert pooled < 0.01
    assert aligned > 0.4


def test_descent_makes_features_isotropic():
    z = (0.05 * torch.randn(64, 1, 8, generator=torch.Generator().manual_seed(0))).requires_grad_()
    optimizer = torch.optim.Adam([z], lr=0.05)
    for step in range(200):
        optimizer.zero_grad()
        sliced_gaussianity(z, z[:, :0], seed=0, group_position=step).backward()
        optimizer.step()
    eigenvalues = torch.linalg.eigvalsh(torch.cov(z.detach()[:, 0].T))
    assert eigenvalues.min() > 0.6
    assert eigenvalues.max() < 1.5


@pytest.mark.parametrize("aligned", [True, False])
def test_gradcheck(aligned):
    context, target = tokens(3, width=3)
    context.requires_grad_()
    assert torch.autograd.gradcheck(lambda c: sliced_gaussianity(c, target, slices=4, aligned=aligned, **DRAW), (context,))


def test_the_target_gets_no_gradient():
    context, target = tokens()
    loss = sliced_gaussianity(context.requires_grad_(), target.requires_grad_(), **DRAW)
    assert torch.autograd.grad(loss, target, allow_unused=True)[0] is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_float32_under_autocast(dtype):
    context, target = tokens(8, dtype=dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = sliced_gaussianity(context, target, **DRAW)
    assert loss.dtype == torch.float32
    exact = sliced_gaussianity(context.double(), target.double(), **DRAW)
    assert loss.item() == pytest.approx(exact.item(), rel=1e-5)


def test_slices_are_unit_vectors_in_all_directions_drawn_from_seed_and_position():
    like = torch.zeros((), dtype=torch.float64)
    a_DK = draw_slices(3, 40, 5, 4000, like)
    torch.testing.assert_close(a_DK.norm(dim=0), torch.ones(4000, dtype=torch.float64))
    torch.testing.assert_close(a_DK @ a_DK.T / 4000, torch.eye(5, dtype=torch.float64) / 5, atol=0.02, rtol=0)
    assert a_DK.equal(draw_slices(3, 40, 5, 4000, like))
    assert not a_DK.equal(draw_slices(3, 41, 5, 4000, like))
    assert not a_DK.equal(draw_slices(4, 40, 5, 4000, like))


@pytest.mark.parametrize("aligned", [True, False])
def test_fewer_than_two_samples_give_0_without_gradient_and_one_warning(aligned, caplog):
    sigreg._warn_single_sample.cache_clear()
    context = torch.randn(1, 3 if aligned else 1, 6, requires_grad=True)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            loss = sliced_gaussianity(context, context[:, :0], aligned=aligned, **DRAW)
    assert len(caplog.records) == 1
    loss.backward()
    assert loss.item() == 0
    assert (context.grad == 0).all()


def test_one_volume_is_compared_over_its_tokens_where_pooled():
    context, target = tokens(1)
    assert sliced_gaussianity(context, target, aligned=False, **DRAW).item() > 0


@pytest.mark.parametrize("value", [0.0, 1e4, 3e38])
def test_huge_and_constant_features_are_finite(value):
    context = torch.full((3, 2, 4), value, requires_grad=True)
    loss = sliced_gaussianity(context, torch.zeros(3, 1, 4), **DRAW)
    loss.backward()
    assert loss.isfinite() == (value < 1e38)
    if value < 1e38:
        assert context.grad.isfinite().all()


def test_memory_of_the_graph_does_not_grow_with_frequencies():
    context, target = tokens(8)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x.numel()) or x, lambda x: x):
        sliced_gaussianity(context.requires_grad_(), target, slices=32, aligned=False, **DRAW)
    rows = 8 * 8
    assert sum(n for n in saved if n >= rows * 32) <= rows * 32


def gradients(aligned: bool, rank: int, world: int) -> tuple[float, Tensor]:
    torch.manual_seed(0)
    layer = nn.Linear(6, 6).double()
    context, target = tokens(8)
    loss = sliced_gaussianity(layer(context[rank::world]), target[rank::world], aligned=aligned, **DRAW)
    loss.backward()
    gradient = torch.cat([p.grad.flatten() for p in layer.parameters()])
    if world > 1:
        dist.all_reduce(gradient)
        gradient /= world
    return loss.item(), gradient


@pytest.mark.parametrize("aligned", [True, False])
def test_two_ranks_equal_one_in_loss_and_averaged_parameter_gradients(aligned):
    def work(rank: int) -> tuple[float, list[float]]:
        dist.init_process_group("gloo")
        loss, gradient = gradients(aligned, rank, 2)
        return loss, gradient.tolist()

    one_loss, one_gradient = gradients(aligned, 0, 1)
    for loss, gradient in run_ranks(work, 2):
        assert loss == pytest.approx(one_loss, rel=1e-10)
        assert gradient == pytest.approx(one_gradient.tolist(), rel=1e-8, abs=1e-12)
