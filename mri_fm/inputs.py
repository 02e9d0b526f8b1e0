"""What an objective is given of one micro-batch; the loader's batches are such inputs.

Axes: B batch, C channels, Z/Y/X depth, height, width of the input, 3 the axes z, y, x.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Inputs:
    """One micro-batch of one rank.

    A dataclass of tensors passes DeepSpeed's hooks as one opaque argument, so that it neither casts nor copies them.

    Attributes:
        x_BCZYX: float32, augmented and z-scored.
        positions_B: int64 global sample positions, on the device of x; of a further view or contrast its row number instead
            (`mri_fm.data.positions`), so that no two rows have masks or noise in common.
        group_position: the first position of the global micro-step, equal on all ranks.
        foreground_BCZYX: bool, voxels above the background; None: not known.
        spacing_B3: float32, millimetres between voxels of x along depth, height, width; None: not known.
    """

    x_BCZYX: Tensor
    positions_B: Tensor
    group_position: int
    foreground_BCZYX: Tensor | None = None
    spacing_B3: Tensor | None = None


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A copy on `device`; from the host to a GPU it goes through pinned memory, so that the host does not wait for it."""
    if device.type == "cuda" and not tensor.is_cuda:
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device, copy=True)
