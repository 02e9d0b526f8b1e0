"""What a spectral loss looks at: its mode and how much each frequency counts.

    f        frequency of a bin, cycles/voxel (np.fft.fftfreq), or cycles/mm where the voxel spacing is known
    ρ        |f| / max|f| (units "corner"), |f| / f_Nyquist ("nyquist") or |f| ("cycles_per_mm")
    h(ρ)     1 where cutoff ≤ ρ ≤ cutoff_high, else 0; a soft edge at c rises as sin²(π/2 · u) while
             u = (ρ − c)/softness + 1/2 goes from 0 to 1

Everything is computed in float64: in float32 the bins that lie on an edge would fall to either side of it.

Axes: Z/Y/X frequencies, the last one halved where "half" says so; F all bins of a half spectrum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from mri_fm.models.patches import Size3

MODES = ("log_magnitude", "magnitude", "complex", "phase_aware", "radial_log_power")
_SHUT = 1e-9  # a soft edge that rounding leaves open by less is shut: float32 cannot follow
UNITS = ("corner", "nyquist", "cycles_per_mm")
Spacing = Tensor | Sequence[float] | None


@dataclass(frozen=True)
class Spectrum:
    """Mode and pass band; see the top of this file and of `mri_fm.losses.spectral`.

    Its methods take `spacing_3`, mm between voxels along z, y, x, whose device the result is on; None: isotropic, unknown.
    """

    mode: str = "log_magnitude"
    cutoff: float = 0.3
    high_pass: bool = True  # False: no lower edge
    cutoff_high: float | None = None  # upper edge of a band-pass; None: no upper edge
    softness: float = 0.0  # width of the edges, in the unit of the cutoffs; 0: hard
    units: str = "corner"
    shells: int = 32  # radial bins of radial_log_power, over the pass band

    def __post_init__(self) -> None:
        """Check what does not depend on the size of the volume.

        Raises:
            ValueError: unknown mode or units; cutoffs, softness or shells out of range.
        """
        if self.mode not in MODES:
            raise ValueError(f"spectral mode '{self.mode}' is not one of {', '.join(MODES)}")
        if self.units not in UNITS:
            raise ValueError(f"spectral units '{self.units}' are not one of {', '.join(UNITS)}")
        if not (self.cutoff >= 0.0 and self.softness >= 0.0 and self.shells >= 1):
            raise ValueError("the spectral cutoff and softness must not be negative, and there must be a shell")
        if self.cutoff_high is not None and not self.cutoff_high > (self.cutoff if self.high_pass else 0.0):
            raise ValueError(f"the upper spectral cutoff {self.cutoff_high} must be above the lower one, {self.cutoff}")

    def radius(self, size: Size3, *, half: bool, spacing_3: Tensor | None = None) -> Tensor:
        """ρ of every bin, float64 (Z, Y, X), or (Z, Y, X//2 + 1) for the half spectrum.

        Raises:
            ValueError: units of cycles/mm without a spacing.
        """
        if spacing_3 is None:
            if self.units == "cycles_per_mm":
                raise ValueError("spectral units 'cycles_per_mm' need the spacing: mm along z, y, x")
            spacing_3 = torch.ones(3)
        mm_3 = spacing_3.double()
        squares = [_frequencies(n, mm).square() for n, mm in zip(size, mm_3.unbind(), strict=True)]
        largest = (squares[0].max() + squares[1].max() + squares[2].max()).sqrt()
        if half:
            squares[2] = squares[2][: size[2] // 2 + 1]
        radius = (squares[0][:, None, None] + squares[1][:, None] + squares[2]).sqrt()
        if self.units == "cycles_per_mm":
            return radius
        return radius / (0.5 / mm_3.max() if self.units == "nyquist" else torch.where(largest > 0, largest, 1.0))

    def response(self, size: Size3, *, half: bool, spacing_3: Tensor | None = None) -> Tensor:
        """h of every bin, shaped as `radius`."""
        radius = self.radius(size, half=half, spacing_3=spacing_3)
        h = torch.ones_like(radius)
        if self.high_pass:
            h = _edge(radius, self.cutoff, self.softness)
        if self.cutoff_high is not None:
            h = h * _edge(-radius, -self.cutoff_high, self.softness)
        if self.mode == "radial_log_power":
            h[0, 0, 0] = 0.0  # the mean is no texture, and as a shell of one bin its logarithm would be noise
        return h

    def shell_index(self, size: Size3, *, half: bool, spacing_3: Tensor | None = None) -> Tensor:
        """Which of `shells` equally wide radial bins of the pass band each frequency lies in; int32, shaped as `radius`."""
        radius = self.radius(size, half=half, spacing_3=spacing_3)
        passed = self.response(size, half=half, spacing_3=spacing_3) > 0
        low, high = torch.where(passed, radius, torch.inf).amin(), torch.where(passed, radius, 0.0).amax()
        share = torch.where(high > low, (radius - low) / (high - low), 0.0)
        return (share * self.shells).clamp(0, self.shells - 1).int()

    def require_band(self, size: Size3, spacing_3: Tensor | None = None) -> None:
        """Make sure that some frequency of a volume passes; reads values, so it is nothing for the training step.

        Raises:
            ValueError: none does, so the loss would always be 0.
        """
        if not self.response(size, half=True, spacing_3=spacing_3).any():
            largest = self.radius(size, half=True, spacing_3=spacing_3).max().item()
            raise ValueError(
                f"no frequency of a volume of {size} voxels lies in the spectral band; the largest is {largest:.3g}"
            )


def _frequencies(count: int, mm: Tensor) -> Tensor:
    """Signed frequencies of an axis in cycles/mm, in the order of the transform, rounded as np.fft.fftfreq rounds them."""
    index = torch.arange(count, dtype=torch.float64, device=mm.device)
    return torch.where(index < (count + 1) // 2, index, index - count) * (1.0 / (count * mm))


def _edge(radius: Tensor, at: float, softness: float) -> Tensor:
    if softness == 0.0:
        return (radius >= at).double()
    share = ((radius - at) / softness + 0.5).clamp(0.0, 1.0)
    h = (share * (torch.pi / 2)).sin().square()
    return torch.where(h < _SHUT, 0.0, h)


def as_spacing(spacing: Spacing, like: Tensor) -> Tensor | None:
    """mm along z, y, x of every sample, (B, 3), on the device of `like` (B, …); None stays None.

    Raises:
        ValueError: neither three positive numbers for all samples nor a tensor (B, 3).
    """
    if spacing is None:
        return None
    if isinstance(spacing, Tensor):
        if spacing.shape != (len(like), 3):
            raise ValueError(f"a spacing of shape {tuple(spacing.shape)} for {len(like)} samples: give a row of z, y, x each")
        return spacing
    if not (len(spacing) == 3 and all(0.0 < mm < float("inf") for mm in spacing)):
        raise ValueError(f"spacing {spacing} must be three positive numbers: mm along z, y, x")
    return torch.tensor(spacing, dtype=torch.float64, device=like.device).expand(len(like), 3)


def multiplicity(width: int, device: torch.device) -> Tensor:
    """How many bins of the full spectrum each x-frequency of the half spectrum stands for, float64 (width//2 + 1,).

    A real volume has R(−f) = conj R(f), so all stand for two but frequency 0 and, where the width is even, Nyquist.
    """
    counts = torch.full((width // 2 + 1,), 2.0, dtype=torch.float64, device=device)
    counts[0] = 1.0
    if width % 2 == 0:
        counts[-1] = 1.0
    return counts


class Filter(NamedTuple):
    """What a pass over the bins of the half spectrum needs; shells for `radial_log_power` alone."""

    h_F: Tensor
    shell_F: Tensor | None = None  # int32
    weight_K: Tensor | None = None  # float64: Σ h² over each shell of the full spectrum


def half_filter(spectrum: Spectrum, size: Size3, dtype: torch.dtype, spacing_3: Tensor | None = None) -> Filter:
    """The filter of one volume, h in `dtype`, on the device of its spacing."""
    h = spectrum.response(size, half=True, spacing_3=spacing_3)
    if spectrum.mode != "radial_log_power":
        return Filter(h.flatten().to(dtype))
    shell_F = spectrum.shell_index(size, half=True, spacing_3=spacing_3).flatten()
    weights_F = (h.square() * multiplicity(size[2], h.device)).flatten()
    weight_K = weights_F.new_zeros(spectrum.shells).index_add_(0, shell_F, weights_F)
    return Filter(h.flatten().to(dtype), shell_F, weight_K)


@lru_cache(maxsize=16)
def common_filter(spectrum: Spectrum, size: Size3, device: torch.device, dtype: torch.dtype) -> Filter:
    """The filter of all volumes of a size where their spacing plays no part, computed once.

    Raises:
        ValueError: as `Spectrum.require_band`.
    """
    spectrum.require_band(size)
    with torch.inference_mode(False):  # a cached inference tensor could not be used in a later training step
        h_F, shell_F, weight_K = half_filter(spectrum, size, dtype)
        if shell_F is None or weight_K is None:
            return Filter(h_F.to(device))
        return Filter(h_F.to(device), shell_F.to(device), weight_K.to(device))
