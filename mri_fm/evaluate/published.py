"""Splits that somebody else has fixed: a column of the manifest, or the paper's lists.

Axes: V volumes, S units.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from mri_fm.data.split_files import read_split, resolve
from mri_fm.errors import UserError
from mri_fm.evaluate.splits import Split, cross_validation, require_disjoint, require_learnable
from mri_fm.evaluate.table import column_of, columns_of, is_missing, text
from mri_fm.evaluate.task import Task

PARTS = ("train", "val", "test")


def splits_of(task: Task, table: pa.Table, lists: Path | None, *, seed: int) -> list[Split]:
    """The splits that a task asks for.

    Args:
        task: resolved on `table`.
        table: the manifest.
        lists: folder of published lists; None: the task's other rule.
        seed: of folds that are drawn.

    Raises:
        UserError: a list is missing or names nobody here, a group is in two parts, a class is not in every training part, or
            there are fewer groups than folds.
    """
    rule = task.spec.split
    if lists is not None and rule.files:
        splits = _listed(task, table, lists)
    elif rule.by == "column":
        column = column_of(columns_of(table, task.spec.table), rule.column, f"{task.name}: split.column")
        splits = [_split(task, [None if is_missing(column[row]) else text(column[row]) for row in task.row_V], rule.column)]
    elif rule.by == "files":
        raise UserError(f"{task.name}: split.by=files needs --splits DIR, the folder that holds {rule.files}")
    else:
        task.require_folds(rule.folds)
        return cross_validation(task.target, task.group_S, rule.folds, seed=seed)
    require_disjoint(splits, task.group_S, task.unit_names)
    require_learnable(task.target, splits)
    return splits


def _listed(task: Task, table: pa.Table, folder: Path) -> list[Split]:
    """One split for each fold whose lists are there."""
    pattern, splits = task.spec.split.files, []
    for fold in range(task.spec.split.folds if "{fold}" in pattern else 1):
        part_V: dict[int, str] = {}
        for part in PARTS:
            path = folder / pattern.format(fold=fold, part=part)
            if path.is_file() or part != "val":  # a published split may do without validation
                part_V |= dict.fromkeys(resolve(table, read_split(path)).rows, part)
        splits.append(_split(task, [part_V.get(int(row)) for row in task.row_V], pattern))
    return splits


def _split(task: Task, part_V: Sequence[str | None], origin: str) -> Split:
    """The parts of the units from those of their volumes."""
    part_S: list[str | None] = [None] * len(task.target)
    for unit, part in zip(task.unit_V.tolist(), part_V, strict=True):
        if part is not None and part_S[unit] not in (None, part):
            raise UserError(f"{task.name}: {origin}: '{task.unit_names[unit]}' is in both {part_S[unit]} and {part}")
        part_S[unit] = part or part_S[unit]
    train, validation, test = (np.array([i for i, p in enumerate(part_S) if p == name], dtype=np.int64) for name in PARTS)
    if not len(train) or not len(test):
        raise UserError(f"{task.name}: {origin} puts {len(train)} units in train and {len(test)} in test; both need some")
    return Split(train, validation, test)
