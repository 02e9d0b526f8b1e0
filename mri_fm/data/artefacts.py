"""Artefacts of the acquisition: which of them a sample gets and how strong, drawn on the host; `kspace.py` applies them.

Axes: 0, 1, 2 are depth, height, width of the input. Ranges and habits follow TorchIO (Pérez-García et al., Comput. Methods
Programs Biomed. 208, 2021), whose names these are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mri_fm.config import ArtefactConfig
from mri_fm.rng import Stream, generator

_CENTRE = 0.5  # of the scan: when the middle of k-space is read
_GHOSTS = (2, 4)  # fewest and most
_SPIKE_FREQUENCIES = (0.05, 0.4)  # cycles per voxel along each axis


@dataclass(frozen=True)
class Motion:
    """A head that moves between lines of one phase-encoding axis, which are read from one end of k-space to the other.

    Attributes:
        axis: the phase-encoding axis.
        times: when it moves, fractions of the scan, ascending.
        shifts: mm along depth, height, width of each pose; the pose of the middle of the scan is (0, 0, 0).
        angles: radians about depth, height, width of each pose, about the middle of the volume, applied in this order.
    """

    axis: int
    times: tuple[float, ...]
    shifts: tuple[tuple[float, ...], ...]
    angles: tuple[tuple[float, ...], ...]

    @property
    def reference(self) -> int:
        """The pose in which the middle of k-space is read, and so where the anatomy appears."""
        return sum(time <= _CENTRE for time in self.times)


@dataclass(frozen=True)
class Ghosting:
    """Every `count`-th line of one phase-encoding axis is weaker by `strength`, as under breathing or pulsation."""

    axis: int
    count: int
    strength: float


@dataclass(frozen=True)
class Spike:
    """One wrong point of k-space (herringbone): a plane wave of `strength` times the mean intensity.

    Attributes:
        frequencies: cycles per voxel along depth, height, width.
        phase: radians.
        strength: amplitude over the mean intensity.
    """

    frequencies: tuple[float, ...]
    phase: float
    strength: float


@dataclass(frozen=True)
class Anisotropy:
    """A resolution along one axis that is coarser by `factor`: k-space was read no further, and filled with zeros."""

    axis: int
    factor: float


@dataclass(frozen=True)
class Artefacts:
    """Those of one sample; None where it has none."""

    motion: Motion | None = None
    ghosting: Ghosting | None = None
    spike: Spike | None = None
    anisotropy: Anisotropy | None = None

    def __bool__(self) -> bool:
        return any((self.motion, self.ghosting, self.spike, self.anisotropy))


def draw_artefacts(config: ArtefactConfig, *, seed: int, position: int) -> Artefacts:
    """The artefacts of the sample at a global position; every number is drawn whether or not it is used."""
    if not (config.motion or config.ghosting or config.spike or config.anisotropy):
        return Artefacts()
    rng = generator(seed, Stream.ARTEFACT, position)
    wanted = rng.random(4) < (config.motion, config.ghosting, config.spike, config.anisotropy)
    axes, strengths = rng.integers(3, size=3), rng.random(3)
    ghosts = int(rng.integers(_GHOSTS[0], _GHOSTS[1] + 1))
    frequencies = rng.uniform(*_SPIKE_FREQUENCIES, 3) * rng.choice((-1.0, 1.0), 3)
    phase = rng.uniform(0, 2 * np.pi)
    motion = _draw_motion(config, int(axes[0]), rng)
    return Artefacts(
        motion=motion if wanted[0] else None,
        ghosting=Ghosting(int(axes[1]), ghosts, float(config.ghosting_strength * strengths[0])) if wanted[1] else None,
        spike=Spike(tuple(frequencies.tolist()), phase, float(config.spike_strength * strengths[1])) if wanted[2] else None,
        anisotropy=Anisotropy(int(axes[2]), float(1 + (config.anisotropy_factor - 1) * strengths[2])) if wanted[3] else None,
    )


def _draw_motion(config: ArtefactConfig, axis: int, rng: np.random.Generator) -> Motion:
    moves = int(rng.integers(1, config.motion_moves + 1))
    times = tuple(np.sort(rng.random(moves)).tolist())
    shifts = rng.uniform(-config.motion_mm, config.motion_mm, (moves + 1, 3))
    angles = np.radians(rng.uniform(-config.motion_degrees, config.motion_degrees, (moves + 1, 3)))
    motion = Motion(axis, times, (), ())
    shifts[motion.reference] = angles[motion.reference] = 0
    return Motion(axis, times, tuple(map(tuple, shifts.tolist())), tuple(map(tuple, angles.tolist())))
