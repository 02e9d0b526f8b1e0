"""What might give a label away: simple views of a scan, each a row of numbers.

Axes: P voxels of the head, F features, N patches, Z/Y/X voxels, R radial bins.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from claims.acquisition import SITES
from claims.bands import detail, halved, radial_power
from claims.heads import Array
from claims.rendering import Rendering
from mri_fm.evaluate.embed import voxel_grid
from mri_fm.evaluate.linear import fit_linear, fit_voxels
from mri_fm.evaluate.nuisance import intensity_moments
from mri_fm.evaluate.training import Fit
from mri_fm.models.vit import as_size3

PATCH = 8
View = Callable[[Rendering], Array]


def zscored(rendering: Rendering) -> Array:
    """The scan with mean 0 and standard deviation 1 over the head, 0 outside."""
    value_P = rendering.scan_ZYX[rendering.head.inside_ZYX]
    return np.where(rendering.head.inside_ZYX, (rendering.scan_ZYX - value_P.mean()) / value_P.std(), 0.0)


def moments(rendering: Rendering) -> Array:
    """Those of the nuisance baseline, of the scan as it is stored."""
    return _moments(rendering.scan_ZYX, rendering.head.inside_ZYX)


def head_volume(rendering: Rendering) -> Array:
    """Log of the number of voxels and of the extents."""
    extent_3 = np.ptp(np.argwhere(rendering.scan_ZYX > 0), axis=0) + 1
    return np.log(np.append(extent_3, np.count_nonzero(rendering.scan_ZYX)))


def radial_spectrum(rendering: Rendering) -> Array:
    """Log power in radial bins."""
    return np.log(radial_power(zscored(rendering)))


def half_voxels(rendering: Rendering) -> Array:
    """All voxels at half the resolution."""
    return halved(zscored(rendering)).ravel()


def half_summary(rendering: Rendering) -> Array:
    """Moments and radial spectrum at half the resolution."""
    half_ZYX = halved(zscored(rendering))
    inside_ZYX = halved(rendering.head.inside_ZYX.astype(np.float64)) > 0.5
    return np.append(_moments(half_ZYX, inside_ZYX), np.log(radial_power(half_ZYX)))


def raw_voxel(rendering: Rendering) -> Array:
    """The evaluation's baseline of that name."""
    x_BCZYX = torch.from_numpy(zscored(rendering))[None, None]
    return F.adaptive_avg_pool3d(x_BCZYX, as_size3(voxel_grid(rendering.scan_ZYX.shape))).flatten().numpy()


def acquisition(rendering: Rendering) -> Array:
    """What was drawn of the scanner, and the site."""
    return np.append(rendering.acquisition.numbers, [rendering.acquisition.site == site for site in SITES]).astype(np.float64)


def patch_energies(rendering: Rendering) -> Array:
    """Log energy of the detail in each patch, in place, (N,)."""
    energy_BCZYX = torch.from_numpy(detail(zscored(rendering)) ** 2)[None, None]
    return np.log(F.avg_pool3d(energy_BCZYX, PATCH).flatten().numpy() + 1e-3)


def mean_patch_energy(rendering: Rendering) -> Array:
    """Their mean: what pooling leaves of them."""
    return patch_energies(rendering).mean(keepdims=True)


def _moments(x_ZYX: Array, inside_ZYX: np.ndarray) -> Array:
    x_BCZYX, inside_BCZYX = (torch.from_numpy(np.ascontiguousarray(a))[None, None] for a in (x_ZYX, inside_ZYX))
    return intensity_moments(x_BCZYX, inside_BCZYX)[0].double().numpy()


GIVEAWAYS: dict[str, tuple[View, Fit]] = {
    "intensity moments": (moments, fit_linear),
    "head volume": (head_volume, fit_linear),
    "radial spectrum": (radial_spectrum, fit_linear),
    "half resolution, voxels": (half_voxels, fit_voxels),
    "half resolution, moments and spectrum": (half_summary, fit_linear),
    "raw_voxel": (raw_voxel, fit_voxels),
    "acquisition": (acquisition, fit_linear),
}
READERS: dict[str, tuple[View, Fit]] = {
    "detail's energy by patch": (patch_energies, fit_linear),
    "its mean over patches": (mean_patch_energy, fit_linear),
}
