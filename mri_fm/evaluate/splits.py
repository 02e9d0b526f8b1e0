"""Folds that keep every unit (a person, an anatomy) on one side and spread the classes evenly.

Axes: S samples (volumes), K classes, F folds, U units.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mri_fm.errors import UserError
from mri_fm.evaluate.draws import Draw, drawer

Ints = NDArray[np.int64]


def grouped_folds(label_S: Ints, unit_S: Ints, folds: int, *, seed: int, index: int = 0) -> Ints:
    """Number of the fold that tests each sample.

    Units go, largest first and in random order among equals, to the fold that holds the fewest of their classes (rare
    classes count more), then to the emptiest. No fold stays empty.

    Args:
        label_S: classes 0…K-1.
        unit_S: any numbers; equal numbers share a fold.
        folds: how many.
        seed: keys the order.
        index: distinguishes splits drawn under one seed (inner folds of another training part).

    Raises:
        UserError: fewer units than folds.
    """
    units_U, unit_S = np.unique(unit_S, return_inverse=True)
    if folds < 2 or len(units_U) < folds:
        raise UserError(
            f"{len(units_U)} units do not fill {folds} folds; take --folds between 2 and {len(units_U)}, or a finer --unit"
        )
    count_UK = np.zeros((len(units_U), int(label_S.max()) + 1))
    np.add.at(count_UK, (unit_S, label_S), 1)
    rarity_K = 1 / np.maximum(count_UK.sum(axis=0), 1)
    held_FK = np.zeros((folds, count_UK.shape[1]))
    fold_U = np.zeros(len(units_U), dtype=np.int64)
    shuffled = drawer(seed, Draw.FOLDS, index).permutation(len(units_U))
    for unit in shuffled[np.argsort(-count_UK.sum(axis=1)[shuffled], kind="stable")]:
        crowding_F = held_FK @ (count_UK[unit] * rarity_K)
        fold_U[unit] = np.lexsort((held_FK.sum(axis=1), crowding_F))[0]
        held_FK[fold_U[unit]] += count_UK[unit]
    return fold_U[unit_S]


def missing_class(label_S: Ints, fold_S: Ints) -> int | None:
    """The first class that some fold's training part lacks, or None."""
    for fold in np.unique(fold_S):
        absent = np.setdiff1d(label_S, label_S[fold_S != fold])
        if len(absent):
            return int(absent[0])
    return None
