"""SIGReg: sketched isotropic Gaussian regularization (Balestriero & LeCun, LeJEPA, arXiv 2511.08544, §4, Algorithm 1).

    z       features; LeJEPA proves that N(0, I) is the distribution to ask for, so ask every direction for N(0, 1)
    a_k     K random unit vectors (slices), new ones at each step, equal on all ranks
    φ̂_k(t)  empirical characteristic function of the slice, mean over samples of exp(i t ⟨a_k, z⟩)
    T_k     Epps-Pulley distance to N(0, 1):  ∫ |φ̂_k(t) − exp(−t²/2)|² exp(−t²/2) dt over [−5, 5], trapezoids at 17 points
    L       mean of T_k over slices (and token slots)

T is 0.41 for features that are all 0 and tends to 0 for standard normal ones; n independent standard normal samples score
1.06/n on average. The published statistic is n·T; without that factor the weight means the same at every batch size.

Aligned, the samples are the volumes of the global batch and each token slot is tested alone, as LeJEPA tests each view:
features that tell the place and not the volume fail. Pooled, all tokens are samples of one test, which such features can pass.

The frequencies are multiples of one step, so that one sine and cosine and seven complex products give them all. The spectrum is
conjugate symmetric and exact at t = 0: eight of the 17 points are computed. The backward pass starts from the projections, so
that memory does not grow with the number of frequencies.

Axes: B batch, V visible tokens, M hidden tokens, N = V + M, D width, K slices, T frequencies.
"""

from __future__ import annotations

import logging
import math
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from mri_fm.losses.collective import AllReduceSum, world_size
from mri_fm.losses.precision import at_least_float32, full_precision
from mri_fm.rng import Stream, normal

_log = logging.getLogger(__name__)

LARGEST_FREQUENCY = 5.0
FREQUENCIES = 8  # above 0
STEP = LARGEST_FREQUENCY / FREQUENCIES


def sliced_gaussianity(
    context_BVD: Tensor,
    target_BMD: Tensor,
    *,
    seed: int,
    group_position: int,
    slices: int = 64,
    aligned: bool = True,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """SIGReg of the global batch, in float32 (float64 for float64 inputs), differentiable once.

    Args:
        context_BVD: student tokens; every rank has the same number of samples.
        target_BMD: teacher tokens, no gradient.
        seed: the run's seed.
        group_position: first position of the global micro-step, equal on all ranks; with `seed` it draws the slices.
        slices: K.
        aligned: one test over the batch for each token slot, which needs equal masks in all samples; else one over all rows.
        group: process group of the batch; None is the default group if one is initialised, else this process alone.

    Returns:
        A scalar ≥ 0, equal on all ranks. 0 with zero gradient (and one warning) where there are fewer than two samples to
        compare: volumes if aligned, else rows.
    """
    with full_precision(context_BVD.device):
        z_BND = torch.cat([at_least_float32(context_BVD), at_least_float32(target_BMD.detach())], dim=1)
        samples = z_BND.shape[0] * world_size(group) * (1 if aligned else z_BND.shape[1])
        if samples < 2:
            _warn_single_sample()
            return z_BND[:0].sum()
        a_DK = draw_slices(seed, group_position, z_BND.shape[2], slices, z_BND)
        sums = _CharacteristicSums.apply(z_BND @ a_DK, aligned)
        return _epps_pulley(AllReduceSum.apply(sums, group) / samples).mean()


def sliced_gaussianity_reference(z_BND: Tensor, a_DK: Tensor, *, aligned: bool = True) -> Tensor:
    """The definition with all 17 frequencies and automatic differentiation, on one process, in the dtype of its input."""
    t_T = torch.linspace(-LARGEST_FREQUENCY, LARGEST_FREQUENCY, 2 * FREQUENCIES + 1, dtype=z_BND.dtype)
    phase_BNKT = (z_BND @ a_DK)[..., None] * t_T
    samples = 0 if aligned else (0, 1)
    real, imaginary, window_T = phase_BNKT.cos().mean(samples), phase_BNKT.sin().mean(samples), torch.exp(-(t_T**2) / 2)
    distance = (real - window_T) ** 2 + imaginary**2
    return torch.trapezoid(distance * window_T, t_T, dim=-1).mean()


def draw_slices(seed: int, group_position: int, width: int, slices: int, like: Tensor) -> Tensor:
    """(D, K) unit vectors, uniform on the sphere, a function of (seed, group_position); device and dtype of `like`."""
    position_1 = torch.full((1,), group_position, dtype=torch.int64, device=like.device)
    return F.normalize(normal(seed, Stream.SLICE, position_1, width * slices).view(width, slices).to(like.dtype), dim=0)


def _epps_pulley(phi_2TNK: Tensor) -> Tensor:
    """T for each slot and slice (N, K) from the real and imaginary part of φ̂ at the frequencies above 0."""
    real_TNK, imaginary_TNK = phi_2TNK
    statistic = torch.zeros_like(real_TNK[0])
    for number in range(1, FREQUENCIES + 1):
        window = math.exp(-((number * STEP) ** 2) / 2)
        distance = (real_TNK[number - 1] - window).square() + imaginary_TNK[number - 1].square()
        # Both signs of t, and half a trapezoid at the end.
        statistic = statistic + distance * (window * STEP * (1 if number == FREQUENCIES else 2))
    return statistic


class _CharacteristicSums(torch.autograd.Function):
    """Σ over samples of cos(t p) and sin(t p): (B, N, K) → (2, T, N, K), or (2, T, 1, K) if pooled."""

    @staticmethod
    def forward(ctx: Any, p_BNK: Tensor, aligned: bool) -> Tensor:
        ctx.save_for_backward(p_BNK)
        samples = (0,) if aligned else (0, 1)
        sums = []
        wave = step = _waves(p_BNK)
        for number in range(FREQUENCIES):
            wave = step if number == 0 else wave * step
            sums.append(torch.view_as_real(wave.sum(samples)).reshape(-1, p_BNK.shape[2], 2))
        return torch.stack(sums).permute(3, 0, 1, 2).contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_2TNK: Tensor) -> tuple[Tensor, None]:
        """d cos(t p) = −t sin(t p), d sin(t p) = t cos(t p)."""
        (p_BNK,) = ctx.saved_tensors
        grad_BNK = torch.zeros_like(p_BNK)
        wave = step = _waves(p_BNK)
        for number in range(FREQUENCIES):
            wave = step if number == 0 else wave * step
            cosine, sine = wave.real, wave.imag
            grad_BNK += (grad_2TNK[1, number] * cosine - grad_2TNK[0, number] * sine) * (STEP * (number + 1))
        return grad_BNK, None


def _waves(p_BNK: Tensor) -> Tensor:
    """exp(i · STEP · p)."""
    return torch.polar(torch.ones_like(p_BNK), p_BNK * STEP)


@cache
def _warn_single_sample() -> None:
    _log.warning("SIGReg is 0: it compares samples, and this global micro-batch has one; give it two or more")
