"""The pass between the transforms of the spectral loss: error of every bin and its gradient, reading each bin once.

    R, G       half spectra of prediction and truth;  a = |R|, b = |G|;  h the filter
    value      Σ over the bins of the full spectrum: bins that stand for two count twice
    gradient   R ← ∂error/∂Re R + i ∂error/∂Im R of the bin alone: the inverse real transform adds the mirrored bin

    log_magnitude   d²,             d = log1p(ha + ε) − log1p(hb + ε) = log1p(h(a − b) / (1 + ε + hb))
    magnitude       h²(a − b)²
    complex         h²|R − G|²
    phase_aware     d² + |P − Q|²,  P = hR / (1 + ha),  Q = hG / (1 + hb)

The one-logarithm form of d is exact where a = b and loses no digits near it. The gradient of |R| at R = 0 is taken as 0.
On CUDA in float32 the Triton twin does the work; its per-block sums are added in a fixed order, so it is deterministic.

Axes: S volumes (samples times channels), F bins of the half spectrum with x varying fastest.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

EPS_LOG = 1e-6
# Below 32768 elements torch's element-wise operations use one thread, and some ten arrays of this size stay in the L2 cache.
_CHUNK = (1 << 15) - 1


def pointwise_(R_SF: Tensor, G_SF: Tensor, h_F: Tensor, *, width: int, mode: str, gradient: bool) -> Tensor:
    """Error of each volume, float64 (S,); with `gradient` R_SF becomes its gradient, else it is left in any state.

    Args:
        R_SF: complex, contiguous, overwritten.
        G_SF: complex, contiguous.
        h_F: the filter, real.
        width: voxels along x, of which the half spectrum keeps width//2 + 1 frequencies.
        mode: log_magnitude, magnitude, complex or phase_aware.
        gradient: whether R_SF is to become the gradient.
    """
    if R_SF.is_cuda and R_SF.dtype == torch.complex64:
        from mri_fm.kernels.spectral_triton import pointwise_triton_

        _warn_untested()
        return pointwise_triton_(R_SF, G_SF, h_F, width=width, mode=mode, gradient=gradient)
    return pointwise_plain_(R_SF, G_SF, h_F, width=width, mode=mode, gradient=gradient)


def pointwise_plain_(R_SF: Tensor, G_SF: Tensor, h_F: Tensor, *, width: int, mode: str, gradient: bool) -> Tensor:
    """`pointwise_` in torch, some rows at a time: temporaries stay in the cache and memory does not grow with the volume."""
    half = width // 2 + 1
    rows = h_F.numel() if h_F.is_cuda else max(1, _CHUNK // half) * half
    sums = []
    for R_F, G_F in zip(R_SF, G_SF, strict=True):
        parts = [
            full_spectrum_sum(_ERRORS[mode](R, G, h, gradient), width)
            for R, G, h in zip(R_F.split(rows), G_F.split(rows), h_F.split(rows), strict=True)
        ]
        sums.append(torch.stack(parts).sum())
    return torch.stack(sums)


def full_spectrum_sum(error_K: Tensor, width: int) -> Tensor:
    """Σ over the full spectrum of an error that is given for whole x-rows of the half one, float64."""
    rows = error_K.view(-1, width // 2 + 1)
    total = 2 * rows.sum().double() - rows[:, 0].sum().double()
    return total - rows[:, -1].sum().double() if width % 2 == 0 else total


def squared_magnitude(R: Tensor) -> Tensor:
    """|R|², faster than torch's overflow-proof abs."""
    re, im = R.real, R.imag
    return torch.mul(re, re).addcmul_(im, im)


def _log_magnitude_(R: Tensor, G: Tensor, h: Tensor, gradient: bool) -> Tensor:
    a, b = squared_magnitude(R).sqrt_(), squared_magnitude(G).sqrt_()
    d = _log_difference(a, b, h)
    error = d.square()
    if gradient:
        R.mul_(_log_slope(a, d, h).div_(_nonzero_(a)))
    return error


def _magnitude_(R: Tensor, G: Tensor, h: Tensor, gradient: bool) -> Tensor:
    a = squared_magnitude(R).sqrt_()
    difference = (a - squared_magnitude(G).sqrt_()).mul_(h)
    error = difference.square()
    if gradient:
        R.mul_(difference.mul_(h).mul_(2).div_(_nonzero_(a)))
    return error


def _complex_(R: Tensor, G: Tensor, h: Tensor, gradient: bool) -> Tensor:
    h_squared = h.square()
    R.sub_(G)
    error = squared_magnitude(R).mul_(h_squared)
    if gradient:
        R.mul_(h_squared.mul_(2))
    return error


def _phase_aware_(R: Tensor, G: Tensor, h: Tensor, gradient: bool) -> Tensor:
    a, b = squared_magnitude(R).sqrt_(), squared_magnitude(G).sqrt_()
    d = _log_difference(a, b, h)
    p = h / (1 + h * a)
    difference = R * p - G * (h / (1 + h * b))
    error = d.square() + squared_magnitude(difference)
    if gradient:
        # ∂|P − Q|² = 2p(P − Q) + R/a · p′ · 2⟨R, P − Q⟩ with p′ = −p²
        inner = R.real * difference.real + R.imag * difference.imag
        along = (_log_slope(a, d, h) - 2 * p.square() * inner).div_(_nonzero_(a))
        R.mul_(along).add_(difference.mul_(2 * p))
    return error


def _log_difference(a: Tensor, b: Tensor, h: Tensor) -> Tensor:
    return (a - b).mul_(h).div_((h * b).add_(1 + EPS_LOG)).log1p_()


def _log_slope(a: Tensor, d: Tensor, h: Tensor) -> Tensor:
    """∂d²/∂a; `d` is used up."""
    return d.mul_(h).mul_(2).div_((h * a).add_(1 + EPS_LOG))


def _nonzero_(a: Tensor) -> Tensor:
    """A divisor for R/a that gives 0 at R = 0; NaN stays NaN."""
    return a.clamp_min_(1e-30)


_ERRORS: dict[str, Callable[[Tensor, Tensor, Tensor, bool], Tensor]] = {
    "log_magnitude": _log_magnitude_,
    "magnitude": _magnitude_,
    "complex": _complex_,
    "phase_aware": _phase_aware_,
}


def radial_log_power_(
    R_SF: Tensor, G_SF: Tensor, h_F: Tensor, shell_F: Tensor, weight_K: Tensor, *, width: int, gradient: bool
) -> Tensor:
    """Mean over shells of (log P_k(R) − log P_k(G))², P_k = ε + Σ h²|R|² / Σ h² over shell k; float64 (S,).

    The spectra are orthonormal ones. `shell_F` and `weight_K` are those of `mri_fm.losses.spectrum.Filter`; with `gradient`
    R_SF becomes the gradient as in `pointwise_`. Empty shells do not count. Sums are taken in float64; on CUDA their order, and
    so the last digits, repeat only under `torch.use_deterministic_algorithms`.
    """
    half = width // 2 + 1
    rows = h_F.numel() if h_F.is_cuda else max(1, _CHUNK // half) * half
    filled_K = weight_K > 0
    filled = filled_K.sum().clamp_min(1)  # a band may be empty, and its error is 0
    losses = []
    for R_F, G_F in zip(R_SF, G_SF, strict=True):
        power_K = [_shell_power(X, h_F, shell_F, weight_K, width, rows) + EPS_LOG for X in (R_F, G_F)]
        d_K = torch.log(power_K[0] / power_K[1]).mul_(filled_K)
        losses.append(d_K.square().sum() / filled)
        if gradient:
            slope_K = 4 * d_K / (power_K[0] * weight_K * filled)
            slope_K = torch.where(filled_K, slope_K, 0.0).to(h_F.dtype)
            for R, h, shell in zip(R_F.split(rows), h_F.split(rows), shell_F.split(rows), strict=True):
                R.mul_(slope_K[shell].mul_(h).mul_(h))
    return torch.stack(losses)


def _shell_power(X_F: Tensor, h_F: Tensor, shell_F: Tensor, weight_K: Tensor, width: int, rows: int) -> Tensor:
    """Mean of h²|X|² over the bins of the full spectrum in each shell, weighted by h², float64 (K,); 0 in empty shells."""
    total_K = torch.zeros_like(weight_K)
    for X, h, shell in zip(X_F.split(rows), h_F.split(rows), shell_F.split(rows), strict=True):
        power = squared_magnitude(X).mul_(h).mul_(h).double().view(-1, width // 2 + 1)
        power[:, 1 : (width + 1) // 2] *= 2
        total_K.index_add_(0, shell, power.flatten())
    return total_K / weight_K.clamp_min(torch.finfo(weight_K.dtype).tiny)


@cache
def _warn_untested() -> None:
    message = (
        "the fused spectral loss is untested on GPUs (docs/gpu-untested.md): python -m pytest -m gpu tests/kernels tests/losses"
    )
    warnings.warn(message, stacklevel=2)
