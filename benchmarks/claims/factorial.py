"""Which renderings of a person carry which labels, so that every label is independent of every other one.

The renderings of a person come in blocks of eight, and each label is one of the seven balanced columns of a Hadamard matrix of
order eight: within every block a label is 1 in four renderings, and any two labels are together in two. Which columns, in which
order and with which sign is drawn anew for each block, so that no label is the product of others over people.
"""

from __future__ import annotations

import zlib
from enum import IntEnum

import numpy as np
from scipy.linalg import hadamard

from mri_fm.rng import Stream, generator

LABELS = ("sharpness", "texture", "regional", "regional_correlated", "atrophy", "lesion")
BLOCK = 8


class Draw(IntEnum):
    """What is drawn of a rendering; numbers are never reused."""

    LABELS = 0
    SHARPNESS = 1
    TEXTURE = 2
    REGIONS = 3
    CARRIER = 4
    LESION = 5
    SHAM = 6
    ACQUISITION = 7
    NOISE = 8
    REFERENCE = 9
    WARP = 10


def drawer(seed: int, person: str, rendering: int, draw: Draw) -> np.random.Generator:
    """The generator of one draw: a function of (seed, person, rendering) alone."""
    return generator(seed, Stream.SIGNAL, (zlib.crc32(person.encode()) << 24) + (rendering << 4) + int(draw))


def labels_of(seed: int, person: str, rendering: int) -> dict[str, int]:
    """The labels, 0 or 1, of one rendering of a person."""
    block, row = divmod(rendering, BLOCK)
    rng = drawer(seed, person, block * BLOCK, Draw.LABELS)
    columns = 1 + rng.permutation(BLOCK - 1)[: len(LABELS)]
    signs = rng.choice([-1, 1], len(LABELS))
    values = signs * hadamard(BLOCK)[rng.permutation(BLOCK)[row], columns]
    return {name: int(value > 0) for name, value in zip(LABELS, values, strict=True)}
