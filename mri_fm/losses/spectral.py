"""The spectral loss: reconstruct what the voxel error hardly sees, the fine anatomy at high spatial frequencies.

    r, g      prediction (mosaic) and truth, z-scored per sample and channel: (x − mean) / (std + 1e-6), unbiased std,
              the gradient flowing through r's mean and std
    R, G      their unnormalised 3-D DFT
    h         1 where |f| / max|f| ≥ cutoff, else 0; max|f| lies at the corner of the cube
    loss      mean over samples, channels and all bins of (log1p(h|R| + 1e-6) − log1p(h|G| + 1e-6))²

Source: arXiv 2606.13315 (SL-MAE). What to know before use:

- `log_magnitude` and `magnitude` do not see the phase: a circular shift of a volume scores about 0.
- `complex` is mean |h(R − G)|² under the orthonormal DFT. It sees the phase, and without the high-pass it *is* the voxel
  MSE by Parseval's theorem, so it adds nothing to a reconstruction loss then.
- `magnitude` is mean (h|R| − h|G|)², orthonormal too.

Axes: B batch, C channels, Z/Y/X voxels or frequencies.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mri_fm.losses.precision import at_least_float32, full_precision
from mri_fm.models.patches import Size3

EPS_STD = 1e-6
EPS_LOG = 1e-6
VOLUME_DIMS = (2, 3, 4)
MODES = ("log_magnitude", "magnitude", "complex")


def spectral_loss(
    pred: Tensor, target: Tensor, *, cutoff: float = 0.3, mode: str = "log_magnitude", high_pass: bool = True
) -> Tensor:
    """The spectral loss from the half spectrum of real volumes, in float32 (float64 for float64 inputs).

    Args:
        pred: (B, C, Z, Y, X), gets the gradient.
        target: same shape, gets none.
        cutoff: c of the high-pass, in units of the largest frequency.
        mode: log_magnitude, magnitude or complex, see the top of this file.
        high_pass: False counts every bin.

    Returns:
        A scalar; exactly 0 for pred = target.

    Raises:
        ValueError: unknown mode, or shapes that differ or are not 5-D.
    """
    _check(pred, target, mode)
    with full_precision(pred.device):
        r, g = zscore(at_least_float32(pred)), zscore(at_least_float32(target.detach()))
        size = (pred.shape[2], pred.shape[3], pred.shape[4])
        weight_ZYX = _bin_weights(size, cutoff if high_pass else 0.0, pred.device, r.dtype)
        error = _half_spectrum_error(r, g, mode)
        return (weight_ZYX * error).sum() / pred.numel()


def _half_spectrum_error(r: Tensor, g: Tensor, mode: str) -> Tensor:
    """Squared error per bin of the half spectrum."""
    if mode == "complex":
        difference = torch.view_as_real(torch.fft.rfftn(r - g, dim=VOLUME_DIMS, norm="ortho"))
        return difference.square().sum(-1)
    if mode == "magnitude":
        spectra = [torch.fft.rfftn(x, dim=VOLUME_DIMS, norm="ortho").abs() for x in (r, g)]
    else:
        spectra = [torch.log1p(torch.fft.rfftn(x, dim=VOLUME_DIMS).abs() + EPS_LOG) for x in (r, g)]
    return (spectra[0] - spectra[1]).square()


def spectral_loss_reference(
    pred: Tensor, target: Tensor, *, cutoff: float = 0.3, mode: str = "log_magnitude", high_pass: bool = True
) -> Tensor:
    """The loss as it is written, with the full complex spectrum, in the dtype of its inputs; see `spectral_loss`."""
    _check(pred, target, mode)
    r, g = zscore(pred), zscore(target.detach())
    size = (pred.shape[2], pred.shape[3], pred.shape[4])
    h_ZYX = torch.from_numpy(_frequency_ratio(size) >= (cutoff if high_pass else 0.0)).to(pred.device, pred.dtype)
    norm = "backward" if mode == "log_magnitude" else "ortho"
    R, G = (h_ZYX * torch.fft.fftn(x, dim=VOLUME_DIMS, norm=norm) for x in (r, g))
    errors: dict[str, Callable[[], Tensor]] = {
        "log_magnitude": lambda: (torch.log1p(R.abs() + EPS_LOG) - torch.log1p(G.abs() + EPS_LOG)).square(),
        "magnitude": lambda: (R.abs() - G.abs()).square(),
        "complex": lambda: (R - G).real.square() + (R - G).imag.square(),
    }
    return errors[mode]().mean()


def zscore(x_BCZYX: Tensor) -> Tensor:
    """(x − mean) / (std + 1e-6) per sample and channel, with the unbiased standard deviation."""
    std, mean = torch.std_mean(x_BCZYX, dim=VOLUME_DIMS, keepdim=True)
    return (x_BCZYX - mean) / (std + EPS_STD)


def _check(pred: Tensor, target: Tensor, mode: str) -> None:
    if mode not in MODES:
        raise ValueError(f"spectral mode '{mode}' is not one of {', '.join(MODES)}")
    if pred.shape != target.shape or pred.dim() != 5:
        raise ValueError(f"pred {tuple(pred.shape)} and target {tuple(target.shape)} must be equal and (B, C, Z, Y, X)")


def _frequency_ratio(size: Size3) -> NDArray[np.float64]:
    """|f| / max|f| of every bin of the full spectrum, (Z, Y, X)."""
    frequencies = np.meshgrid(*(np.fft.fftfreq(n) for n in size), indexing="ij")
    radius = np.sqrt(sum(f**2 for f in frequencies))
    return radius / radius.max()


@lru_cache(maxsize=16)
def _bin_weights(size: Size3, cutoff: float, device: torch.device, dtype: torch.dtype) -> Tensor:
    """High-pass times multiplicity of each bin of the half spectrum, (Z, Y, X//2 + 1).

    A real volume has R(−f) = conj R(f): all bins but those with x-frequency 0 or Nyquist stand for two. Where h is 0 both
    logarithms are equal, so h may as well weigh the difference.
    """
    half = size[2] // 2 + 1
    multiplicity_X = np.full(half, 2.0)
    multiplicity_X[0] = 1.0
    if size[2] % 2 == 0:
        multiplicity_X[-1] = 1.0
    weight = (_frequency_ratio(size)[:, :, :half] >= cutoff) * multiplicity_X
    with torch.inference_mode(False):  # a cached inference tensor could not be saved for a later backward pass
        return torch.from_numpy(weight).to(device, dtype)
