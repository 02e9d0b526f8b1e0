"""Which part of the evaluation stream belongs to which draw, so that no two draws share a position."""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from mri_fm.rng import Stream, generator


class Draw(IntEnum):
    """What is drawn; each owns 2³² positions of `Stream.EVALUATE`. Numbers are never reused."""

    FOLDS = 0
    BOOTSTRAP = 1
    PROBE = 2
    PERMUTATION = 3
    CURVE = 4
    SUPERVISED = 5
    AUDIT = 6
    FINETUNE = 7


def drawer(seed: int, draw: Draw, index: int = 0) -> np.random.Generator:
    """The generator of the `index`-th draw of its kind."""
    return generator(seed, Stream.EVALUATE, (int(draw) << 32) + index)
