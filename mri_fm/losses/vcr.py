"""Variance-covariance regularisation: keep features alive and decorrelated (VICReg, Bardes et al., ICLR 2022).

    Z       [student context tokens ; teacher target tokens (no gradient)], (B, N, D), B over all ranks
    L_var   mean over token slot and feature of max(0, γ − sqrt(Var over the batch + eps))
    C       covariance of all B·N rows;  L_cov = Σ_{p≠q} C_pq² / D

Source: arXiv 2606.13315 (JEPA + VCR). Statistics are those of one micro-step over all ranks. Every rank returns the same
value; the backward pass of the all-reduce sums over ranks, so the *mean* over ranks of the parameter gradients is the
gradient of the global loss.

Axes: B batch, V visible tokens, M hidden tokens, N = V + M, D width, R = B·N rows.
"""

from __future__ import annotations

import logging
from functools import cache

import torch
import torch.distributed as dist
from torch import Tensor

from mri_fm.losses.collective import AllReduceSum, all_reduce, world_size
from mri_fm.losses.precision import at_least_float32, full_precision

_log = logging.getLogger(__name__)


def variance_covariance(
    context_BVD: Tensor,
    target_BMD: Tensor,
    *,
    gamma: float = 1.0,
    eps: float = 1e-4,
    aligned: bool = True,
    group: dist.ProcessGroup | None = None,
) -> tuple[Tensor, Tensor]:
    """Variance hinge and off-diagonal covariance of the global batch, in float32 (float64 for float64 inputs).

    Args:
        context_BVD: student tokens; every rank has the same number of samples.
        target_BMD: teacher tokens, no gradient.
        gamma: target standard deviation.
        eps: added to the variance under the root.
        aligned: variance over the batch for each token slot, which needs equal masks in all samples; else over all rows.
        group: process group of the batch; None is the default group if one is initialised, else this process alone.

    Returns:
        (variance, covariance), scalars, equal on all ranks. With fewer than two samples the aligned variance term is 0 with
        zero gradient (and one warning); so is either term where there are fewer than two rows.
    """
    with full_precision(context_BVD.device):
        z_BND = torch.cat([at_least_float32(context_BVD), at_least_float32(target_BMD.detach())], dim=1)
        samples = z_BND.shape[0] * world_size(group)
        rows = samples * z_BND.shape[1]
        mean_ND = all_reduce(z_BND.detach().sum(0), group) / samples
        if rows < 2:
            return _zero(z_BND), _zero(z_BND)
        cov_DD = _covariance(z_BND, mean_ND.mean(0), rows, group)
        variance, covariance = cov_DD.diagonal(), off_diagonal_energy(cov_DD)
        if aligned and samples < 2:
            _warn_single_sample()
            return _zero(z_BND), covariance
        if aligned:
            # Centred values sum to 0 over the batch, so no gradient is lost through the detached mean.
            variance = AllReduceSum.apply((z_BND - mean_ND).square().sum(0), group) / (samples - 1)
        return torch.relu(gamma - torch.sqrt(variance + eps)).mean(), covariance


def off_diagonal_energy(cov_DD: Tensor) -> Tensor:
    """Σ_{p≠q} C_pq² / D."""
    return (cov_DD - cov_DD.diagonal().diag()).square().sum() / cov_DD.shape[0]


def _covariance(z_BND: Tensor, mean_D: Tensor, rows: int, group: dist.ProcessGroup | None) -> Tensor:
    centred_RD = (z_BND - mean_D).flatten(0, 1)
    return AllReduceSum.apply(centred_RD.T @ centred_RD, group) / (rows - 1)


def _zero(z_BND: Tensor) -> Tensor:
    """0 that can be differentiated, with a gradient of exactly 0."""
    return z_BND[:0].sum()


@cache
def _warn_single_sample() -> None:
    _log.warning("the variance term is 0: it compares samples, and this global micro-batch has one; give it two or more")
