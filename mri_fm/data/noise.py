"""What the scanner adds to a volume, in torch on its device: artefacts of k-space, then voxel noise.

Each is a function of (seed, position, voxel) and is applied sample by sample, so batches do not matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mri_fm.data.artefacts import Artefacts
from mri_fm.data.kspace import add_artefacts
from mri_fm.rng import Stream, normal


@dataclass(frozen=True)
class Scan:
    """How one volume is acquired.

    Attributes:
        noise: standard deviation of the voxel noise, in units of the z-scored volume.
        rician: whether it is the noise of a magnitude image.
        artefacts: of k-space.
        spacing: mm between voxels along z, y, x.
    """

    noise: float
    rician: bool
    artefacts: Artefacts
    spacing: tuple[float, ...]


def acquire_(x_BCZYX: Tensor, air_B: Tensor, scans: Sequence[Scan], positions_B: Tensor, seed: int) -> None:
    """Artefacts and noise of every sample, in place.

    Args:
        x_BCZYX: float32, z-scored.
        air_B: the level of air in each.
        scans: of each sample.
        positions_B: int64, on the host or on the device of x.
        seed: the run's seed.
    """
    for x_CZYX, air, scan, position_1 in zip(x_BCZYX, air_B, scans, positions_B.split(1), strict=True):
        if scan.artefacts:
            x_CZYX[0] = add_artefacts(x_CZYX[0] - air, scan.artefacts, scan.spacing) + air
        if scan.noise > 0:
            _add_noise_(x_CZYX, air, scan, position_1, seed)


def _add_noise_(x_CZYX: Tensor, air: Tensor, scan: Scan, position_1: Tensor, seed: int) -> None:
    """Gaussian noise, or the Rician noise of a magnitude image: |m + n₁ + i n₂| with m the intensity above air.

    Rician: Gudbjartsson & Patz, Magn. Reson. Med. 34, 1995.
    """
    count, device = x_CZYX.numel(), x_CZYX.device
    position_1 = position_1.to(device, non_blocking=True)
    if not scan.rician:
        x_CZYX.add_(normal(seed, Stream.NOISE, position_1, count).view_as(x_CZYX), alpha=scan.noise)
        return
    real, imaginary = normal(seed, Stream.NOISE, position_1, 2 * count).mul_(scan.noise).view(2, *x_CZYX.shape)
    x_CZYX.copy_(torch.hypot(real.add_(x_CZYX).sub_(air), imaginary).add_(air))
