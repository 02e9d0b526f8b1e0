"""Training, validation and test parts that keep every group (a person, a site) on one side and spread the classes evenly.

Axes: S units, K classes, F folds, G groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mri_fm.errors import UserError
from mri_fm.evaluate.draws import Draw, drawer
from mri_fm.evaluate.target import Ints, Target


@dataclass(frozen=True, eq=False)
class Split:
    """Numbers of the units of each part, ascending; an empty validation part is drawn from the training part when needed."""

    train: Ints
    validation: Ints
    test: Ints


def cross_validation(target: Target, group_S: Ints, folds: int, *, seed: int) -> list[Split]:
    """Each unit is in one test part.

    Raises:
        UserError: fewer groups than folds, or a class that some training part lacks.
    """
    fold_S = grouped_folds(target.strata, group_S, folds, seed=seed)
    nothing = np.zeros(0, dtype=np.int64)
    splits = [Split(np.flatnonzero(fold_S != fold), nothing, np.flatnonzero(fold_S == fold)) for fold in range(folds)]
    require_learnable(target, splits)
    return splits


def require_learnable(target: Target, splits: Sequence[Split]) -> None:
    """Every class is in every training part.

    Raises:
        UserError: it is not.
    """
    for number, split in enumerate(splits):
        missing = np.setdiff1d(target.labels, target.labels[split.train])
        if target.classes and len(missing):
            raise UserError(
                f"class '{target.classes[int(missing[0])]}' lies in the test part of split {number + 1} alone; "
                "take other --folds or --group"
            )


def require_disjoint(splits: Sequence[Split], group_S: Ints, names: Sequence[str]) -> None:
    """No group is in two parts of a split.

    Args:
        splits: to be checked.
        group_S: number of each unit's group.
        names: of the units, for the message.

    Raises:
        UserError: one is.
    """
    for number, split in enumerate(splits):
        parts = {"train": split.train, "validation": split.validation, "test": split.test}
        for one, other in (("train", "test"), ("train", "validation"), ("validation", "test")):
            shared = np.intersect1d(group_S[parts[one]], group_S[parts[other]])
            if len(shared):
                unit = int(np.flatnonzero(group_S == shared[0])[0])
                raise UserError(
                    f"split {number + 1}: {len(shared)} groups are in both {one} and {other}, for instance that of "
                    f"{names[unit]}; give every person one part"
                )


def grouped_folds(label_S: Ints, group_S: Ints, folds: int, *, seed: int, index: int = 0) -> Ints:
    """Number of the fold that tests each unit.

    Groups go, largest first and in random order among equals, to the fold that holds the fewest of their classes (rare
    classes count more), then to the emptiest. No fold stays empty.

    Args:
        label_S: classes 0…K-1, or other strata.
        group_S: any numbers; equal numbers share a fold.
        folds: how many.
        seed: keys the order.
        index: distinguishes splits drawn under one seed (inner folds of another training part).

    Raises:
        UserError: fewer groups than folds.
    """
    groups_G, group_S = np.unique(group_S, return_inverse=True)
    if folds < 2 or len(groups_G) < folds:
        raise UserError(
            f"{len(groups_G)} groups do not fill {folds} folds; take --folds between 2 and {len(groups_G)}, or a finer --group"
        )
    count_GK = np.zeros((len(groups_G), int(label_S.max()) + 1))
    np.add.at(count_GK, (group_S, label_S), 1)
    rarity_K = 1 / np.maximum(count_GK.sum(axis=0), 1)
    held_FK = np.zeros((folds, count_GK.shape[1]))
    fold_G = np.zeros(len(groups_G), dtype=np.int64)
    shuffled = drawer(seed, Draw.FOLDS, index).permutation(len(groups_G))
    for group in shuffled[np.argsort(-count_GK.sum(axis=1)[shuffled], kind="stable")]:
        crowding_F = held_FK @ (count_GK[group] * rarity_K)
        fold_G[group] = np.lexsort((held_FK.sum(axis=1), crowding_F))[0]
        held_FK[fold_G[group]] += count_GK[group]
    return fold_G[group_S]


def inner_folds(target: Target, group_S: Ints, folds: int, *, seed: int, index: int) -> Ints | None:
    """Folds of a training part, to choose on; None where it holds too few groups to leave one out and still see every class."""
    folds = min(folds, len(np.unique(group_S)))
    if folds < 2:
        return None
    fold_S = grouped_folds(target.strata, group_S, folds, seed=seed, index=index)
    for fold in range(folds):
        if target.classes and len(np.setdiff1d(target.labels, target.labels[fold_S != fold])):
            return None
    return fold_S
