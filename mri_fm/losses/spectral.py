"""The spectral loss: reconstruct what the voxel error hardly sees, the fine anatomy at high spatial frequencies.

    r, g      prediction (mosaic) and truth, z-scored per sample and channel: (x − mean) / (std + 1e-6), unbiased std,
              the gradient flowing through r's mean and std
    R, G      their unnormalised 3-D DFT
    h         the filter: 1 where |f| / max|f| ≥ cutoff, else 0; max|f| lies at the corner of the cube. Soft edges, band-pass
              and other units: `mri_fm.losses.spectrum`
    loss      mean over samples, channels and all bins of (log1p(h|R| + 1e-6) − log1p(h|G| + 1e-6))²

Source: arXiv 2606.13315 (SL-MAE). What to know before use:

- `log_magnitude` and `magnitude` do not see the phase: a circular shift of a volume scores about 0.
- `phase_aware` cures that: it adds |hR/(1 + h|R|) − hG/(1 + h|G|)|², the distance of the unit phasors, which shrink to 0
  where a magnitude falls below 1 and the phase means nothing.
- `magnitude` is mean (h|R| − h|G|)² under the orthonormal DFT.
- `complex` is mean |h(R − G)|², orthonormal too. It sees the phase, and without a filter it *is* the voxel MSE by Parseval's
  theorem, so it adds nothing to a reconstruction loss then.
- `radial_log_power` is the mean over radial shells of the pass band of (log P(r) − log P(g))², P the mean of |R|² over a shell
  (orthonormal, h² the weight, frequency 0 left out, + 1e-6). Per-bin forms reward a smooth guess where the texture cannot be
  known; this one rewards the right amount of texture. `hidden` confines it to the voxels that were predicted.

Two real transforms, one pass over the bins (`mri_fm.kernels.spectral`) that leaves the gradient in the place of the
prediction's spectrum, and one inverse transform, all in the forward pass; the backward pass multiplies one saved buffer.
On the CPU volumes are taken one by one, so that only that buffer grows with the batch.

    import torch
    from mri_fm.losses.spectral import spectral_loss

    target = torch.randn(2, 1, 16, 16, 16)
    pred = (target + 0.1 * torch.randn_like(target)).requires_grad_()
    spectral_loss(pred, target, cutoff=0.3).backward()

Axes: B batch, C channels, S = B·C volumes, Z/Y/X voxels or frequencies, F bins of the half spectrum.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch._compile import _disable_dynamo

from mri_fm.kernels.spectral import pointwise_, radial_log_power_
from mri_fm.losses.precision import at_least_float32, full_precision
from mri_fm.losses.spectral_reference import EPS_STD, check_volumes, spectral_loss_reference, zscore
from mri_fm.losses.spectrum import MODES, UNITS, Spacing, Spectrum, as_spacing, common_filter, half_filter
from mri_fm.models.patches import Size3

__all__ = ["MODES", "UNITS", "Spectrum", "fused_spectral_loss", "spectral_loss", "spectral_loss_reference", "zscore"]

_VOLUME = (1, 2, 3)
_UNNORMALISED = ("log_magnitude", "phase_aware")


def spectral_loss(
    pred: Tensor,
    target: Tensor,
    *,
    cutoff: float = 0.3,
    mode: str = "log_magnitude",
    high_pass: bool = True,
    cutoff_high: float | None = None,
    softness: float = 0.0,
    units: str = "corner",
    spacing: Spacing = None,
    shells: int = 32,
    hidden: Tensor | None = None,
) -> Tensor:
    """The spectral loss in float32 (float64 for float64 inputs), under autocast too; differentiable once.

    Args:
        pred: (B, C, Z, Y, X), gets the gradient.
        target: same shape, gets none.
        cutoff: lower edge of the pass band, in `units`.
        mode: log_magnitude, magnitude, complex, phase_aware or radial_log_power, see the top of this file.
        high_pass: False removes the lower edge.
        cutoff_high: upper edge of the pass band; None: there is none.
        softness: width of the edges; 0: hard ones.
        units: of the cutoffs: corner (the largest frequency is 1), nyquist (that of the coarsest axis is 1), cycles_per_mm.
        spacing: mm along z, y, x, three numbers or a row for each sample (B, 3); frequencies are then those of the anatomy.
            None: of the voxel grid.
        shells: radial bins of radial_log_power.
        hidden: weights in [0, 1] or bool, broadcast to pred's shape, by which the z-scored volumes are multiplied.

    Returns:
        A scalar; exactly 0 for pred = target, not finite where an input is not.

    Raises:
        ValueError: shapes that differ or are not 5-D, an option out of range, a band without any frequency (but where a tensor
            gives the spacing: the error of such a volume is 0).
    """
    check_volumes(pred, target)
    spectrum, spacing_B3 = Spectrum(mode, cutoff, high_pass, cutoff_high, softness, units, shells), as_spacing(spacing, pred)
    if spacing_B3 is not None and not isinstance(spacing, Tensor):
        spectrum.require_band((pred.shape[2], pred.shape[3], pred.shape[4]), spacing_B3[0])
    return fused_spectral_loss(pred, target, spectrum, hidden, spacing_B3)[0]


@_disable_dynamo
def fused_spectral_loss(
    pred: Tensor,
    target: Tensor,
    spectrum: Spectrum,
    hidden: Tensor | None = None,
    spacing_B3: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """(`spectral_loss`, its gradient with respect to `pred`).

    The gradient is what the backward pass will multiply, given away for inspection: detached, in pred's shape and float32 at
    least (a loss scale is still to come), not to be changed; empty where pred needs none. Under torch.compile this
    function runs as it is, between compiled parts.
    """
    check_volumes(pred, target)
    if hidden is not None:
        hidden = hidden.detach().expand(pred.shape)
    with full_precision(pred.device):
        if torch.is_grad_enabled() and pred.requires_grad:
            loss, gradient = _FusedSpectralLoss.apply(pred, target.detach(), spectrum, hidden, spacing_B3)
        else:
            loss, gradient = _loss_and_gradient(pred, target, spectrum, hidden, spacing_B3, wanted=False)
    return loss, gradient


class _FusedSpectralLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, pred: Tensor, target: Tensor, spectrum: Spectrum, hidden: Tensor | None, spacing_B3: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        loss, gradient = _loss_and_gradient(pred, target, spectrum, hidden, spacing_B3, wanted=True)
        ctx.dtype = pred.dtype
        ctx.mark_non_differentiable(gradient)
        ctx.save_for_backward(gradient)
        return loss, gradient

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, _: Tensor | None) -> tuple[Tensor, None, None, None, None]:
        if torch.is_grad_enabled():
            raise RuntimeError("spectral_loss is differentiable once; take spectral_loss_reference for create_graph=True")
        (gradient,) = ctx.saved_tensors
        return (gradient * upstream).to(ctx.dtype), None, None, None, None


@torch.no_grad()
def _loss_and_gradient(
    pred: Tensor, target: Tensor, spectrum: Spectrum, hidden: Tensor | None, spacing_B3: Tensor | None, *, wanted: bool
) -> tuple[Tensor, Tensor]:
    x_SZYX, y_SZYX = pred.detach().flatten(0, 1), target.detach().flatten(0, 1)
    w_SZYX = None if hidden is None else hidden.flatten(0, 1)
    dtype = torch.promote_types(pred.dtype, torch.float32)
    gradient_SZYX = x_SZYX.new_empty(x_SZYX.shape if wanted else 0, dtype=dtype)
    spacing_S3 = None if spacing_B3 is None else spacing_B3.repeat_interleave(pred.shape[1], dim=0)
    together = len(x_SZYX) if x_SZYX.is_cuda and spacing_B3 is None else 1
    losses = []
    for start in range(0, len(x_SZYX), together):
        part = slice(start, start + together)
        w = None if w_SZYX is None else w_SZYX[part]
        out = gradient_SZYX[part] if wanted else None
        x, y = at_least_float32(x_SZYX[part]), at_least_float32(y_SZYX[part])
        spacing_3 = None if spacing_S3 is None else spacing_S3[start]
        losses.append(_volumes(x, y, w, spectrum, spacing_3, out, 1 / len(x_SZYX)))
    loss = torch.cat(losses).mean().to(dtype)
    return loss, gradient_SZYX.view(pred.shape) if wanted else gradient_SZYX


def _volumes(
    x_SZYX: Tensor,
    y_SZYX: Tensor,
    w_SZYX: Tensor | None,
    spectrum: Spectrum,
    spacing_3: Tensor | None,
    out_SZYX: Tensor | None,
    share: float,
) -> Tensor:
    """Loss of each volume, float64 (S,), and into `out_SZYX` its gradient with respect to x, times `share`."""
    size = (x_SZYX.shape[1], x_SZYX.shape[2], x_SZYX.shape[3])
    # The inverse of a gradient is the adjoint, scaled as the forward transform is.
    norm, adjoint = ("backward", "forward") if spectrum.mode in _UNNORMALISED else ("ortho", "ortho")
    r_SZYX, mean, std = _standardise(x_SZYX, w_SZYX)
    R = torch.fft.rfftn(r_SZYX, dim=_VOLUME, norm=norm).contiguous()
    del r_SZYX
    G = torch.fft.rfftn(_standardise(y_SZYX, w_SZYX)[0], dim=_VOLUME, norm=norm).contiguous()
    if w_SZYX is None:
        R[:, 0, 0, 0] = G[:, 0, 0, 0] = 0  # what rounding leaves of the mean
    loss_S = _bins_(R.flatten(1), G.flatten(1), spectrum, size, spacing_3, gradient=out_SZYX is not None)
    if out_SZYX is None:
        return loss_S
    del G
    g_SZYX = torch.fft.irfftn(R, s=size, dim=_VOLUME, norm=adjoint)
    del R
    if w_SZYX is not None:
        g_SZYX.mul_(w_SZYX)
    scale = share if spectrum.mode == "radial_log_power" else share / math.prod(size)
    _standardise_backward_(g_SZYX, x_SZYX, mean, std, scale, out_SZYX)
    return loss_S


def _bins_(R_SF: Tensor, G_SF: Tensor, spectrum: Spectrum, size: Size3, spacing_3: Tensor | None, *, gradient: bool) -> Tensor:
    """Mean error over bins (or shells), float64 (S,); R_SF becomes the gradient of the sum over bins (the mean over shells)."""
    dtype = R_SF.real.dtype
    if spacing_3 is None:
        h_F, shell_F, weight_K = common_filter(spectrum, size, R_SF.device, dtype)
    else:
        h_F, shell_F, weight_K = half_filter(spectrum, size, dtype, spacing_3)
    if shell_F is not None and weight_K is not None:
        return radial_log_power_(R_SF, G_SF, h_F, shell_F, weight_K, width=size[2], gradient=gradient)
    return pointwise_(R_SF, G_SF, h_F, width=size[2], mode=spectrum.mode, gradient=gradient) / math.prod(size)


def _standardise(x_SZYX: Tensor, w_SZYX: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """w(x − mean)/(std + ε), mean and std; the moments in two passes, which beats torch's Welford on the CPU by far."""
    mean = x_SZYX.mean(_VOLUME, keepdim=True)
    r_SZYX = x_SZYX - mean
    std = (r_SZYX.square().sum(_VOLUME, keepdim=True) / (x_SZYX[0].numel() - 1)).sqrt_()
    r_SZYX.div_(std + EPS_STD)
    return r_SZYX if w_SZYX is None else r_SZYX.mul_(w_SZYX), mean, std


def _standardise_backward_(g_SZYX: Tensor, x_SZYX: Tensor, mean: Tensor, std: Tensor, scale: float, out_SZYX: Tensor) -> None:
    """From g = ∂L/∂r, which is used up, scale · ∂L/∂x for r = (x − mean)/σ, σ = std + ε.

    ∂L/∂x = (g − mean g)/σ − (x − mean) · Σ g(x − mean) / (σ² (n − 1) std); the last term is 0 for a constant volume.
    """
    centred, sigma = x_SZYX - mean, std + EPS_STD
    along = (g_SZYX * centred).sum(_VOLUME, keepdim=True) / std / sigma / sigma / (x_SZYX[0].numel() - 1)
    along = torch.where(std == 0, 0.0, along)
    g_SZYX.sub_(g_SZYX.mean(_VOLUME, keepdim=True)).mul_(scale / sigma)
    torch.addcmul(g_SZYX, centred, along, value=-scale, out=out_SZYX)
