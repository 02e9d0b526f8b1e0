"""What a masked autoencoder may put into hidden patches, from the best guess of the voxel error to the truth itself.

The truth is a head plus a random-phase texture t. A network that sees one patch in four cannot know the phases of t; at best
it knows its statistics. The head's own detail stands for what it can know; smoothing the head takes that away. With a second
texture of the same spectrum, t′, and one of another spectrum, w:

    perfect      head + t            half locked   head + t/2       the right texture, too weak
    smooth       head                shifted       the truth moved by a voxel
    half right   head + t′/2         half wrong    head + w/2
    right        head + t′           wrong         head + w

Axes: B batch (1), C channels (1), N patches, Z/Y/X voxels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from claims.heads import Head
from claims.textures import falling, flat, placed, random_phase
from mri_fm.masking import random_mask
from mri_fm.models.patches import Size3

PATCH = 8
RATIO = 0.75
TEXTURE_ABOVE = 0.2  # of the largest frequency
NAMES = ("perfect", "smooth", "half right", "right", "half wrong", "wrong", "half locked", "shifted")


@dataclass(frozen=True)
class Dose:
    """How much detail can be known and how much cannot.

    Attributes:
        blur: standard deviation in voxels of the Gaussian that smooths the head; 1 leaves it little above TEXTURE_ABOVE.
        std: of the texture; the head's foreground has 1.
    """

    blur: float
    std: float

    def __str__(self) -> str:
        """For headings."""
        return f"{'smoothed head' if self.blur else 'head as scanned'}, texture {self.std:g}"


@dataclass(frozen=True)
class Case:
    """A truth and, by name, volumes that equal it at visible patches. `hidden` is boolean; all are (1, 1, Z, Y, X), float64."""

    truth: Tensor
    hidden: Tensor
    mosaics: dict[str, Tensor]


def reconstruct(head: Head, dose: Dose, seed: int) -> Case:
    """The reconstructions of one head under one mask and one draw of the textures."""
    side = len(head.x_ZYX)
    size = (side, side, side)
    right, other = (random_phase(falling(size, above=TEXTURE_ABOVE), 3 * seed + k) for k in (0, 1))
    wrong = random_phase(flat(size, above=TEXTURE_ABOVE), 3 * seed + 2)
    smooth = ndimage.gaussian_filter(head.x_ZYX, dose.blur) if dose.blur else head.x_ZYX
    t, other, w = (placed(texture, head.inside_ZYX, dose.std) for texture in (right, other, wrong))
    guesses = (smooth + t, smooth, smooth + other / 2, smooth + other, smooth + w / 2, smooth + w, smooth + t / 2)
    hidden, truth = hidden_voxels(size, seed), as_tensor(smooth + t)
    mosaics = {name: torch.where(hidden, as_tensor(x), truth) for name, x in zip(NAMES[:-1], guesses, strict=True)}
    mosaics["shifted"] = torch.roll(truth, 1, dims=-1)  # in visible patches too: what a mode that is blind to shifts cannot see
    return Case(truth, hidden, mosaics)


def hidden_voxels(size: Size3, seed: int) -> Tensor:
    """A random mask of patches as (1, 1, Z, Y, X) booleans."""
    grid = tuple(n // PATCH for n in size)
    _, hidden_BM = random_mask(int(np.prod(grid)), RATIO, seed=seed, positions_B=torch.zeros(1, dtype=torch.int64))
    tokens_N = torch.zeros(int(np.prod(grid)), dtype=torch.bool)
    tokens_N[hidden_BM[0]] = True
    voxels = tokens_N.view(grid)
    for axis in range(3):
        voxels = voxels.repeat_interleave(PATCH, axis)
    return voxels[None, None]


def as_tensor(x_ZYX: np.ndarray) -> Tensor:
    """A volume as a batch of one."""
    return torch.from_numpy(np.ascontiguousarray(x_ZYX))[None, None]
