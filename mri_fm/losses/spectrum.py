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

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mri_fm.models.patches import Size3

MODES = ("log_magnitude", "magnitude", "complex", "phase_aware", "radial_log_power")
_SHUT = 1e-9  # a soft edge that rounding leaves open by less is shut: float32 cannot follow
UNITS = ("corner", "nyquist", "cycles_per_mm")


@dataclass(frozen=True)
class Spectrum:
    """Mode and pass band; see the top of this file and of `mri_fm.losses.spectral`."""

    mode: str = "log_magnitude"
    cutoff: float = 0.3
    high_pass: bool = True  # False: no lower edge
    cutoff_high: float | None = None  # upper edge of a band-pass; None: no upper edge
    softness: float = 0.0  # width of the edges, in the unit of the cutoffs; 0: hard
    units: str = "corner"
    spacing: tuple[float, float, float] | None = None  # mm along z, y, x; None: isotropic, unknown
    shells: int = 32  # radial bins of radial_log_power, over the pass band

    def __post_init__(self) -> None:
        """Check what does not depend on the size of the volume.

        Raises:
            ValueError: unknown mode or units; cutoffs, softness, spacing or shells out of range.
        """
        if self.mode not in MODES:
            raise ValueError(f"spectral mode '{self.mode}' is not one of {', '.join(MODES)}")
        if self.units not in UNITS:
            raise ValueError(f"spectral units '{self.units}' are not one of {', '.join(UNITS)}")
        if not (self.cutoff >= 0.0 and self.softness >= 0.0 and self.shells >= 1):
            raise ValueError("the spectral cutoff and softness must not be negative, and there must be a shell")
        if self.cutoff_high is not None and not self.cutoff_high > (self.cutoff if self.high_pass else 0.0):
            raise ValueError(f"the upper spectral cutoff {self.cutoff_high} must be above the lower one, {self.cutoff}")
        if self.spacing is not None and not (len(self.spacing) == 3 and all(0.0 < mm < np.inf for mm in self.spacing)):
            raise ValueError(f"spacing {self.spacing} must be three positive numbers: mm along z, y, x")
        if self.units == "cycles_per_mm" and self.spacing is None:
            raise ValueError("spectral units 'cycles_per_mm' need the spacing: mm along z, y, x")

    def radius(self, size: Size3, *, half: bool) -> NDArray[np.float64]:
        """ρ of every bin, (Z, Y, X), or (Z, Y, X//2 + 1) for the half spectrum."""
        spacing = self.spacing or (1.0, 1.0, 1.0)
        squares = [np.fft.fftfreq(n, mm) ** 2 for n, mm in zip(size, spacing, strict=True)]
        largest = np.sqrt(sum(axis.max() for axis in squares))
        if half:
            squares[2] = squares[2][: size[2] // 2 + 1]
        radius = np.sqrt(squares[0][:, None, None] + squares[1][:, None] + squares[2])
        unit = {"corner": largest or 1.0, "nyquist": 0.5 / max(spacing), "cycles_per_mm": 1.0}
        return np.asarray(radius / unit[self.units])

    def response(self, size: Size3, *, half: bool) -> NDArray[np.float64]:
        """h of every bin, shaped as `radius`.

        Raises:
            ValueError: no frequency passes, so the loss would always be 0.
        """
        radius = self.radius(size, half=half)
        h = np.ones_like(radius)
        if self.high_pass:
            h = _edge(radius, self.cutoff, self.softness)
        if self.cutoff_high is not None:
            h = h * _edge(-radius, -self.cutoff_high, self.softness)
        if self.mode == "radial_log_power":
            h[0, 0, 0] = 0.0  # the mean is no texture, and as a shell of one bin its logarithm would be noise
        if not h.any():
            raise ValueError(
                f"no frequency of a volume of {size} voxels lies in the spectral band; the largest is {radius.max():.3g}"
            )
        return h

    def shell_index(self, size: Size3, *, half: bool) -> NDArray[np.int32]:
        """Which of `shells` equally wide radial bins of the pass band each frequency lies in; shaped as `radius`."""
        radius, passed = self.radius(size, half=half), self.response(size, half=half) > 0
        low, high = radius[passed].min(), radius[passed].max()
        share = (radius - low) / (high - low) if high > low else np.zeros_like(radius)
        return np.clip(share * self.shells, 0, self.shells - 1).astype(np.int32)


def _edge(radius: NDArray[np.float64], at: float, softness: float) -> NDArray[np.float64]:
    if softness == 0.0:
        return (radius >= at).astype(np.float64)
    share = np.clip((radius - at) / softness + 0.5, 0.0, 1.0)
    h = np.sin(share * (np.pi / 2)) ** 2
    return np.where(h < _SHUT, 0.0, h)


def as_spacing(values: Sequence[float]) -> tuple[float, float, float] | None:
    """A configured list as the `spacing` of `Spectrum`; an empty one is None.

    Raises:
        ValueError: neither none nor three numbers.
    """
    if not values:
        return None
    if len(values) != 3:
        raise ValueError(f"spacing {list(values)} must be three numbers: mm along z, y, x")
    return values[0], values[1], values[2]


def multiplicity(width: int) -> NDArray[np.float64]:
    """How many bins of the full spectrum each x-frequency of the half spectrum stands for, (width//2 + 1,).

    A real volume has R(−f) = conj R(f), so all stand for two but frequency 0 and, where the width is even, Nyquist.
    """
    counts = np.full(width // 2 + 1, 2.0)
    counts[0] = 1.0
    if width % 2 == 0:
        counts[-1] = 1.0
    return counts


@lru_cache(maxsize=16)
def half_response(spectrum: Spectrum, size: Size3, device: torch.device, dtype: torch.dtype) -> Tensor:
    """h of the half spectrum on `device`, (F,)."""
    with torch.inference_mode(False):  # a cached inference tensor could not be used in a later training step
        return torch.from_numpy(spectrum.response(size, half=True)).flatten().to(device, dtype)


@lru_cache(maxsize=16)
def half_shells(spectrum: Spectrum, size: Size3, device: torch.device) -> tuple[Tensor, Tensor]:
    """Shell of each bin of the half spectrum, int32 (F,), and Σ h² over each shell of the full one, float64 (shells,)."""
    index = spectrum.shell_index(size, half=True)
    weights = spectrum.response(size, half=True) ** 2 * multiplicity(size[2])
    total = np.bincount(index.ravel(), weights.ravel(), spectrum.shells)
    with torch.inference_mode(False):
        return torch.from_numpy(index).flatten().to(device), torch.from_numpy(total).to(device)
