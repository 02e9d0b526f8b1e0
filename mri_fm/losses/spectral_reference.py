"""The spectral loss as it is written down in `mri_fm.losses.spectral`, bin by bin: what the fast form is held against.

Axes: B batch, C channels, Z/Y/X voxels or frequencies, K shells.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mri_fm.losses.spectrum import Spacing, Spectrum, as_spacing

EPS_STD = 1e-6
EPS_LOG = 1e-6
VOLUME_DIMS = (2, 3, 4)


def spectral_loss_reference(
    pred: Tensor, target: Tensor, *, hidden: Tensor | None = None, spacing: Spacing = None, **options: Any
) -> Tensor:
    """The loss from the full complex spectrum by automatic differentiation, in the dtype of its inputs.

    Arguments, options and errors are those of `mri_fm.losses.spectral.spectral_loss`.
    """
    check_volumes(pred, target)
    spectrum, w = Spectrum(**options), torch.ones_like(pred) if hidden is None else hidden.to(pred.dtype).expand(pred.shape)
    spacing_B3 = as_spacing(spacing, pred)
    if spacing_B3 is None:
        return _error(pred, target, w, spectrum, None)
    rows = zip(pred.split(1), target.split(1), w.split(1), spacing_B3, strict=True)
    return torch.stack([_error(p, t, w_1, spectrum, spacing_3) for p, t, w_1, spacing_3 in rows]).mean()


def _error(pred: Tensor, target: Tensor, w: Tensor, spectrum: Spectrum, spacing_3: Tensor | None) -> Tensor:
    """The loss of volumes that share a spacing."""
    size = (pred.shape[2], pred.shape[3], pred.shape[4])
    spectrum.require_band(size, spacing_3)
    norm = "backward" if spectrum.mode in ("log_magnitude", "phase_aware") else "ortho"
    h = spectrum.response(size, half=False, spacing_3=spacing_3).to(pred.device, pred.dtype)
    R, G = (h * torch.fft.fftn(zscore(x) * w, dim=VOLUME_DIMS, norm=norm) for x in (pred, target.detach()))
    if spectrum.mode == "complex":
        return _energy(R - G).mean()
    if spectrum.mode == "magnitude":
        return (R.abs() - G.abs()).square().mean()
    if spectrum.mode == "radial_log_power":
        shell = spectrum.shell_index(size, half=False, spacing_3=spacing_3).to(pred.device)
        return torch.stack([_radial_error(R, G, h, shell == k) for k in shell[h > 0].unique()]).mean()
    error = (torch.log1p(R.abs() + EPS_LOG) - torch.log1p(G.abs() + EPS_LOG)).square()
    if spectrum.mode == "phase_aware":
        error = error + _energy(R / (1 + R.abs()) - G / (1 + G.abs()))
    return error.mean()


def _energy(R: Tensor) -> Tensor:
    """|R|²; unlike abs().square() it has a gradient at 0."""
    return R.real.square() + R.imag.square()


def _radial_error(R: Tensor, G: Tensor, h: Tensor, inside: Tensor) -> Tensor:
    """Mean over samples and channels of the squared log ratio of the power in one shell."""
    P, Q = (_energy(X)[:, :, inside].sum(-1) / h[inside].square().sum() + EPS_LOG for X in (R, G))
    return (P.log() - Q.log()).square().mean()


def zscore(x_BCZYX: Tensor) -> Tensor:
    """(x − mean) / (std + 1e-6) per sample and channel, with the unbiased standard deviation."""
    std, mean = torch.std_mean(x_BCZYX, dim=VOLUME_DIMS, keepdim=True)
    return (x_BCZYX - mean) / (std + EPS_STD)


def check_volumes(pred: Tensor, target: Tensor) -> None:
    """Refuse shapes that differ or are not (B, C, Z, Y, X).

    Raises:
        ValueError: either is so.
    """
    if pred.shape != target.shape or pred.dim() != 5:
        raise ValueError(f"pred {tuple(pred.shape)} and target {tuple(target.shape)} must be equal and (B, C, Z, Y, X)")
