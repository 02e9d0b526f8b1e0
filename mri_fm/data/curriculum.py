"""Progressive resolution: small inputs first, larger ones later, all of one optimizer step alike.

V-JEPA 2 (Assran et al., 2025) spends most of its run on small inputs and only the end on large ones, which saves most of the
work. The size is a function of the step, thus of the position.
"""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass

from mri_fm.config import DataConfig

Size = tuple[int, int, int]


@dataclass(frozen=True)
class Curriculum:
    """The size of the inputs by optimizer step.

    Attributes:
        sizes: voxels along depth, height, width of each stage.
        starts: first step of each stage but the first, ascending.
    """

    sizes: tuple[Size, ...]
    starts: tuple[int, ...] = ()

    @classmethod
    def of(cls, config: DataConfig, steps: int | None) -> Curriculum:
        """The stages of `data.curriculum` in a run of `steps` optimizer steps, and `data.size` after the last one.

        A stage ends after round-half-up(until · steps) steps; short runs may leave one out.

        Raises:
            ValueError: stages are fractions of a run, and its length is not given.
        """
        if config.curriculum and steps is None:
            raise ValueError("the stages of data.curriculum are fractions of a run: its number of steps is needed")
        starts = tuple(math.floor(stage.until * (steps or 0) + 0.5) for stage in config.curriculum)
        sizes = tuple(_size3(*size) for size in (*(stage.size for stage in config.curriculum), config.size))
        return cls(sizes, starts)

    def size(self, step: int) -> Size:
        """Voxels along depth, height, width of the inputs of optimizer step `step` (from 0)."""
        return self.sizes[bisect.bisect_right(self.starts, step)]

    def describe(self) -> str:
        """One line for the user."""
        stages = [f"{_times(size)} until step {end}" for size, end in zip(self.sizes, self.starts, strict=False)]
        return f"curriculum: inputs of {', '.join(stages)}, then {_times(self.sizes[-1])}"


def _size3(depth: int, height: int, width: int) -> Size:
    return depth, height, width


def _times(size: Size) -> str:
    return "x".join(map(str, size))
