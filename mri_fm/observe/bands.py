"""Where in the spectrum a reconstruction errs.

Axes: B batch, C channels, Z/Y/X voxels, F bins of a half spectrum, R bands.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from mri_fm.losses.spectrum import Spectrum, multiplicity
from mri_fm.models.patches import Size3
from mri_fm.models.vit import as_size3

BANDS = 8


def band_errors(mosaic_BCZYX: Tensor, truth_BCZYX: Tensor) -> tuple[Tensor, Tensor]:
    """Error and power of a reconstruction in `BANDS` equally wide bands of |f| / max|f|.

        error_r = Σ |R − G|² / Σ |G|²,  power_r = Σ |R|² / Σ |G|²,  sums over the bins of band r

    An error of 1 is that of a guess of 0; a power far below 1 is detail that is missing, one near 1 beside a large error is
    detail in the wrong place. Shells of equal radius are those of the Fourier shell correlation (van Heel & Schatz, J. Struct.
    Biol. 2005); that networks learn low frequencies first is Rahaman et al., ICML 2019.

    Args:
        mosaic_BCZYX: truth at visible patches, prediction at hidden ones.
        truth_BCZYX: of the same shape.

    Returns:
        error and power, float32 (B, R).
    """
    size = as_size3(truth_BCZYX.shape[2:])
    band_F, weight_F = _bands(size, truth_BCZYX.device)
    truth, mosaic = (torch.fft.rfftn(v.float(), dim=(2, 3, 4)) for v in (truth_BCZYX, mosaic_BCZYX))
    energies = [(v.real.square() + v.imag.square()).sum(dim=1).flatten(1) * weight_F for v in (mosaic - truth, mosaic, truth)]
    error_BR, power_BR, truth_BR = (e_BF.new_zeros(len(e_BF), BANDS).index_add_(1, band_F, e_BF) for e_BF in energies)
    least = torch.finfo(torch.float32).tiny
    return error_BR / truth_BR.clamp_min(least), power_BR / truth_BR.clamp_min(least)


@lru_cache(maxsize=8)
def _bands(size: Size3, device: torch.device) -> tuple[Tensor, Tensor]:
    """The band of each bin of the half spectrum, int64, and how many bins of the full one it stands for, float32."""
    with torch.inference_mode(False):
        radius = Spectrum().radius(size, half=True)
        weight = multiplicity(size[2], radius.device).expand_as(radius)
        band = (radius * BANDS).long().clamp_max(BANDS - 1)
        return band.flatten().to(device), weight.flatten().float().to(device)
