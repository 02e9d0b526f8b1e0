"""How much power a reconstruction has at each spatial frequency, and how much of it is in the right place.

Hidden patches are looked at one by one: the whole mosaic would count the truth of the visible patches, and hidden voxels cut
out of the volume would leak from low into high frequencies at every edge. A patch loses its mean and is tapered by a Hann
window, as in Welch's method (1967); shells of equal radius are those of the Fourier shell correlation (van Heel & Schatz 2005).

Axes: B batch, C channels (1), N patches, z/y/x voxels or frequencies of one patch, R bands.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mri_fm.losses.spectrum import Spectrum
from mri_fm.models.patches import Size3, patchify

BANDS = ((0.1, 0.3), (0.3, 0.45), (0.45, 0.6), (0.6, 1.0))
"""Of the largest frequency, that of the corner. The spectral loss looks above 0.3."""
LEAST_FOREGROUND = 0.5  # of the voxels of a patch that counts


def power_and_correlation(mosaic_BCZYX: Tensor, truth_BCZYX: Tensor, counted_BN: Tensor, patch: Size3) -> tuple[Tensor, Tensor]:
    """Of each volume and band of `BANDS`, over the patches that count, with r a patch of the mosaic and g of the truth:

        power = Σ |R|² / Σ |G|²,  correlation = Σ Re R G* / sqrt(Σ |R|² · Σ |G|²)

    Power below 1 is detail that is missing; power near 1 without correlation is detail in the wrong place.

    Args:
        mosaic_BCZYX, truth_BCZYX: one channel.
        counted_BN: bool, which patches.
        patch: voxels of a patch.

    Returns:
        power and correlation (B, R), float32; NaN where no patch counts.
    """
    R, G = (_spectra(x, patch) for x in (mosaic_BCZYX, truth_BCZYX))
    band_R = [_inside(patch, low, high) for low, high in BANDS]
    weight = counted_BN[:, :, None].to(R.real.dtype)

    def sums(energy: Tensor) -> Tensor:
        return torch.stack([(energy[:, :, inside] * weight).sum((1, 2)) for inside in band_R], dim=1)

    mosaic, truth, shared = sums(R.abs().square()), sums(G.abs().square()), sums((R * G.conj()).real)
    return mosaic / truth, shared / (mosaic * truth).sqrt()


def counted_patches(hidden_BCZYX: Tensor, foreground_BCZYX: Tensor, patch: Size3) -> Tensor:
    """Hidden patches that are foreground for the most part, bool (B, N)."""
    hidden, foreground = (patchify(x.float(), patch).mean(dim=2) for x in (hidden_BCZYX, foreground_BCZYX))
    return (hidden == 1) & (foreground >= LEAST_FOREGROUND)


def _spectra(x_BCZYX: Tensor, patch: Size3) -> Tensor:
    """The spectrum of every patch, complex (B, N, z, y, x)."""
    taper = _taper(patch)
    patches = patchify(x_BCZYX.float(), patch).unflatten(2, patch)
    mean = (patches * taper).sum((2, 3, 4), keepdim=True) / taper.sum()
    return torch.fft.fftn((patches - mean) * taper, dim=(2, 3, 4))


def _taper(patch: Size3) -> Tensor:
    z, y, x = (torch.hann_window(n + 2, periodic=False)[1:-1] for n in patch)
    return z[:, None, None] * y[:, None] * x


def _inside(patch: Size3, low: float, high: float) -> Tensor:
    radius = Spectrum().radius(patch, half=False)
    return (radius >= low) & ((radius < high) | (high == BANDS[-1][1]))
