"""What the engine knows of an objective.

Axes: B batch, N tokens, V visible tokens, M hidden tokens, D width, C channels, Z/Y/X voxels.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from mri_fm.config import ModelConfig
from mri_fm.models.vit import VisionTransformer


class Objective(nn.Module):
    """Student, heads, frozen teacher (if any) and the loss, as one module behind one DeepSpeed engine.

    A subclass names its losses, its masks and which parameters the teacher follows. The engine owns the optimizer, the
    sharding and the clocks: it evaluates `schedules` at each optimizer step and applies the EMA after it.
    """

    Config: ClassVar[type]
    student: VisionTransformer

    def __init__(self, config: Any, model: ModelConfig, size: tuple[int, int, int], seed: int) -> None:
        """Build the modules; `size` is the input's depth, height, width in voxels, `seed` keys the masks."""
        super().__init__()
        self.config, self.seed = config, seed

    @abstractmethod
    def forward(
        self, x_BCZYX: Tensor, positions_B: Tensor, group_position: int, schedule: Mapping[str, float]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of one micro-batch.

        Args:
            x_BCZYX: augmented, z-scored volumes of this rank.
            positions_B: their global sample positions, int64.
            group_position: first position of the global micro-step, equal on all ranks.
            schedule: `schedules` at the current optimizer step.

        Returns:
            The scalar loss (mean over this rank's samples, or global for batch statistics) and detached scalar metrics.
        """

    def schedules(self, steps: int) -> dict[str, np.ndarray]:
        """Values per optimizer step, float64 (steps,). The key "ema" is the teacher's momentum."""
        return {}

    def ema_pairs(self) -> list[tuple[nn.Parameter, nn.Parameter]]:
        """(teacher, student) parameters; the engine moves each teacher towards its student."""
        return []

    def encoder(self) -> VisionTransformer:
        """The network that is kept for downstream use."""
        return self.student
