"""Draw docs/images/masks.png: every kind of mask on the MNI152 template (nilearn), in three planes.

python docs/draw_masks.py
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import matplotlib
import nibabel
import nilearn
import numpy as np
import torch
from torch import Tensor

from mri_fm.masking import Blocks, MaskDraw, multiblock_mask, tube_mask, uniform_mask
from mri_fm.models.patches import patch_grid, patchify

matplotlib.use("Agg")
import matplotlib.pyplot as plt

TEMPLATE = "datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
PATCH = (8, 8, 8)
RATIO = 0.75
PLANES = ("axial", "coronal", "sagittal")


def brain() -> Tensor:
    """The template with axes z, y, x of RAS+, cut to its box and padded to whole patches, 0 to 1."""
    image = nibabel.load(Path(nilearn.__file__).parent / TEMPLATE)
    x_ZYX = np.asarray(image.dataobj, np.float32).transpose(2, 1, 0)
    inside = np.argwhere(x_ZYX > 0)
    low, high = inside.min(0), inside.max(0) + 1
    box = x_ZYX[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    extra = [-n % p for n, p in zip(box.shape, PATCH, strict=True)]
    return torch.from_numpy(np.pad(box, [(n // 2, n - n // 2) for n in extra]) / box.max())


def hidden_masks(x_ZYX: Tensor) -> dict[str, Tensor]:
    """Hidden voxels of each kind of mask, bool like x."""
    grid = patch_grid(tuple(x_ZYX.shape), PATCH)
    foreground_1N = patchify(x_ZYX[None, None] > 0, PATCH).any(dim=2)
    draw = MaskDraw(1, torch.tensor([2]))
    foreground = replace(draw, foreground_BN=foreground_1N, foreground_visible=0.25)
    indices = {
        "random": uniform_mask(grid, RATIO, draw),
        "tube": tube_mask(grid, RATIO, draw),
        "multiblock": multiblock_mask(grid, RATIO, draw, Blocks()),
        "multiblock, set 1": multiblock_mask(grid, RATIO, replace(draw, set_index=1), Blocks()),
        "multiblock, 30 %": multiblock_mask(grid, 0.3, draw, Blocks(4, (0.05, 0.1))),
        "random, 50 %,\nforeground": uniform_mask(grid, 0.5, foreground),
    }
    return {name: as_voxels(hidden_1M, x_ZYX) for name, (_, hidden_1M) in indices.items()}


def as_voxels(hidden_1M: Tensor, x_ZYX: Tensor) -> Tensor:
    """Which voxels belong to the hidden tokens."""
    grid = patch_grid(tuple(x_ZYX.shape), PATCH)
    tokens = torch.zeros(grid[0] * grid[1] * grid[2], dtype=torch.bool)
    voxels = tokens.scatter(0, hidden_1M[0], True).view(grid)
    for axis, size in enumerate(PATCH):
        voxels = voxels.repeat_interleave(size, dim=axis)
    return voxels


def plane(x_ZYX: Tensor, axis: int) -> np.ndarray:
    """The middle slice with anterior or superior on top."""
    return np.flipud(x_ZYX.select(axis, x_ZYX.shape[axis] // 2).numpy())


def main() -> None:
    """Write the picture."""
    x_ZYX = brain()
    masks = hidden_masks(x_ZYX)
    figure, axes = plt.subplots(len(PLANES), len(masks), figsize=(2 * len(masks), 6.6), layout="constrained")
    for column, (name, hidden) in enumerate(masks.items()):
        axes[0, column].set_title(name, fontsize=10)
        for row, label in enumerate(PLANES):
            image, covered = plane(x_ZYX, row), plane(hidden, row)
            tinted = np.repeat(image[..., None], 3, axis=2)
            tinted[covered] = 0.25 * tinted[covered] + 0.75 * np.array([0.16, 0.42, 0.62])
            axes[row, column].imshow(tinted, vmin=0, vmax=1, interpolation="nearest")
            axes[row, column].set(xticks=[], yticks=[], ylabel=label if column == 0 else "")
    figure.savefig(Path(__file__).parent / "images" / "masks.png", dpi=80)


if __name__ == "__main__":
    main()
