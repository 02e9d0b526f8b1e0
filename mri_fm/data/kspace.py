"""Artefacts of the acquisition in k-space, in torch on the device of the volume; which ones is drawn by `artefacts.py`.

Volumes are real and what is returned is the real part of the reconstruction. Taking it makes k-space Hermitian, so the weight
of a line is the mean of its own and its mirror's, and one real transform along one axis does the whole: for a filter w along
the phase-encoding axis, Re F⁻¹(w F x) = irfft((w(k) + w(−k)) / 2 · rfft x). What depends on the sample is passed as numbers, so
nothing waits for the device.

Axes: Z, Y, X depth, height, width of the input; K bins of the half spectrum along one axis.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mri_fm.data.artefacts import Anisotropy, Artefacts, Ghosting, Motion, Spike


def add_artefacts(volume_ZYX: Tensor, artefacts: Artefacts, spacing: Sequence[float]) -> Tensor:
    """Everything that `artefacts` names, in the order in which it happens.

    Args:
        volume_ZYX: float32 intensities, air at 0.
        artefacts: of this sample.
        spacing: mm between voxels along z, y, x.
    """
    if artefacts.motion:
        volume_ZYX = move_head(volume_ZYX, artefacts.motion, spacing)
    if artefacts.ghosting:
        volume_ZYX = add_ghosts(volume_ZYX, artefacts.ghosting)
    if artefacts.anisotropy:
        volume_ZYX = coarsen(volume_ZYX, artefacts.anisotropy)
    if artefacts.spike:
        volume_ZYX = add_spike(volume_ZYX, artefacts.spike)
    return volume_ZYX


def move_head(volume_ZYX: Tensor, motion: Motion, spacing: Sequence[float]) -> Tensor:
    """Lines of k-space from the volume in the pose of their time: Re F⁻¹ Σ_b m_b F(T_b x), m_b = 1 on the lines of pose b.

    The scan runs from the lowest frequency −⌊n/2⌋ to the highest, line k at the time (k + n/2) / n. The middle of k-space is
    read in the reference pose, so sums along the axis do not change.
    """
    length = volume_ZYX.shape[motion.axis]
    bounds = [0.0, *motion.times, 1.0]
    spectrum_ZYK = torch.zeros((), device=volume_ZYX.device)
    for pose, (shift, angles) in enumerate(zip(motion.shifts, motion.angles, strict=True)):
        moved_ZYX = volume_ZYX if pose == motion.reference else rigid(volume_ZYX, shift, angles, spacing)
        first, last = (math.ceil(bound * length - length / 2) for bound in bounds[pose : pose + 2])
        lines_K = torch.arange(length // 2 + 1, device=volume_ZYX.device)
        weight_K = 0.5 * (_holds(lines_K, first, last, length) + _holds(-lines_K, first, last, length))
        spectrum_ZYK = spectrum_ZYK + _along(weight_K, motion.axis) * torch.fft.rfft(moved_ZYX, dim=motion.axis)
    return torch.fft.irfft(spectrum_ZYK, n=length, dim=motion.axis)


def add_ghosts(volume_ZYX: Tensor, ghosting: Ghosting) -> Tensor:
    """(1 − s)-fold lines k ≡ 0 modulo g, but for k = 0: replicas of weight −s/g at multiples of the field of view over g."""

    def weight(lines_K: Tensor) -> Tensor:
        return 1 - ghosting.strength * ((lines_K % ghosting.count == 0) & (lines_K > 0))

    return _filter(volume_ZYX, ghosting.axis, weight)


def coarsen(volume_ZYX: Tensor, anisotropy: Anisotropy) -> Tensor:
    """Lines |k| < n / (2 · factor) alone; a sharp edge rings (Gibbs), as it does on the scanner."""
    limit = volume_ZYX.shape[anisotropy.axis] / (2 * anisotropy.factor)
    return _filter(volume_ZYX, anisotropy.axis, lambda lines_K: ((lines_K < limit) | (lines_K == 0)).to(torch.float32))


def add_spike(volume_ZYX: Tensor, spike: Spike) -> Tensor:
    """x + s · mean(x) · cos(2π Σ_a k_a i_a / n_a + φ), the transform of one point of k-space and its mirror.

    k_a is the whole number nearest to the frequency along axis a times n_a.
    """
    phase = torch.full((), spike.phase, device=volume_ZYX.device)
    for axis, (length, frequency) in enumerate(zip(volume_ZYX.shape, spike.frequencies, strict=True)):
        index = torch.arange(length, device=volume_ZYX.device)
        turns = (index * round(frequency * length)) % length  # whole numbers: exact
        phase = phase + _along(turns * (2 * math.pi / length), axis)
    return volume_ZYX + spike.strength * volume_ZYX.mean() * phase.cos()


def rigid(volume_ZYX: Tensor, shift: Sequence[float], angles: Sequence[float], spacing: Sequence[float]) -> Tensor:
    """The volume turned about its middle, then shifted; trilinear, 0 outside.

    Args:
        volume_ZYX: float32.
        shift: mm along z, y, x.
        angles: radians about z, y, x, applied in this order.
        spacing: mm between voxels along z, y, x.
    """
    half = np.array(volume_ZYX.shape) * np.array(spacing) / 2  # mm for one unit of grid_sample's coordinates
    rotation = _rotation(angles)
    inverse = np.column_stack([rotation.T * half / half[:, None], -(rotation.T @ np.array(shift)) / half])
    theta_134 = torch.from_numpy(inverse[::-1, [2, 1, 0, 3]].astype(np.float32))[None]  # grid_sample counts x, y, z
    shape = [1, 1, *volume_ZYX.shape]
    grid = functional.affine_grid(theta_134.to(volume_ZYX.device, non_blocking=True), shape, align_corners=False)
    return functional.grid_sample(volume_ZYX[None, None], grid, align_corners=False)[0, 0]


def _rotation(angles: Sequence[float]) -> np.ndarray:
    """Turns about z, then y, then x as one matrix on (z, y, x)."""
    total = np.eye(3)
    for axis, angle in enumerate(angles):
        a, b = (other for other in range(3) if other != axis)
        turn = np.eye(3)
        turn[a, a] = turn[b, b] = math.cos(angle)
        turn[a, b], turn[b, a] = -math.sin(angle), math.sin(angle)
        total = turn @ total
    return total


def _filter(volume_ZYX: Tensor, axis: int, weight: Callable[[Tensor], Tensor]) -> Tensor:
    """Multiply the lines k = 0 … ⌊n/2⌋ along an axis, and so their mirrors, by `weight`(k)."""
    length = volume_ZYX.shape[axis]
    weight_K = weight(torch.arange(length // 2 + 1, device=volume_ZYX.device))
    return torch.fft.irfft(_along(weight_K, axis) * torch.fft.rfft(volume_ZYX, dim=axis), n=length, dim=axis)


def _holds(lines_K: Tensor, first: int, last: int, length: int) -> Tensor:
    """1 where a line, counted modulo `length` from −⌊length/2⌋, is in [first, last)."""
    wrapped_K = (lines_K + length // 2) % length - length // 2
    return ((wrapped_K >= first) & (wrapped_K < last)).to(torch.float32)


def _along(values_K: Tensor, axis: int) -> Tensor:
    return values_K.view([-1 if other == axis else 1 for other in range(3)])
