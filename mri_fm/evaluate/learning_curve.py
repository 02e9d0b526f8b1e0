"""How many labelled people a probe needs.

Axes: S units, M refits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from mri_fm.errors import UserError
from mri_fm.evaluate.compare import out_of_fold
from mri_fm.evaluate.draws import Draw, drawer
from mri_fm.evaluate.methods import Method
from mri_fm.evaluate.metrics import measure
from mri_fm.evaluate.progress import progress
from mri_fm.evaluate.splits import Split
from mri_fm.evaluate.statistics import interval
from mri_fm.evaluate.target import Ints
from mri_fm.evaluate.task import Task

SIZES = (8, 16, 32, 64)  # units per class
DRAWS = 6


@threadpool_limits.wrap(limits=1)
def learning_curve(
    task: Task, methods: Mapping[str, Method], splits: Callable[[int], Sequence[Split]], *, seed: int, draws: int = DRAWS
) -> list[dict[str, Any]]:
    """The task's metric of each method by number of training units per class (of a value: of all units).

    Each draw takes other units and other splits; larger sets hold the smaller ones, and all methods learn from the same. The
    interval holds 95 % of the draws (with few, all of them): it is the chance of the training set, on these test units.

    Args:
        task: what is asked.
        methods: which of them.
        splits: the splits under a seed.
        seed: keys the draws.
        draws: how many.

    Returns:
        One record for each size that every training part can fill.
    """
    values: dict[int, dict[str, list[float]]] = {}
    for draw in progress(range(draws), "learning curve", draws, unit="draw"):
        try:
            parts = splits(seed + draw)
        except UserError:  # these folds leave a training part without a class
            continue
        for size in SIZES:
            smaller = [_smaller(task, part, size, seed=seed, index=draw) for part in parts]
            if any(part is None for part in smaller):
                continue
            for name, method in methods.items():
                chosen = [part for part in smaller if part is not None]
                features = method.of_refit(draw)
                _, scores = out_of_fold(features, task.target, task.group_S, chosen, method.fit, seed=seed + draw)
                values.setdefault(size, {}).setdefault(name, []).append(float(measure(task.spec.metric, scores)[0]))
    return [
        {"per_class": size, **{name: {"value": float(np.mean(v)), "interval": interval(np.array(v))} for name, v in of.items()}}
        for size, of in values.items()
    ]


def _smaller(task: Task, split: Split, size: int, *, seed: int, index: int) -> Split | None:
    """The split with `size` training units of each class, the first in a random order; None if there are fewer."""
    order = drawer(seed, Draw.CURVE, index).permutation(len(task.target))
    label_S = task.target.labels if task.classes else np.zeros(len(task.target), dtype=np.int64)
    chosen: list[Ints] = []
    for number in range(max(1, len(task.classes))):
        members = order[np.isin(order, split.train) & (label_S[order] == number)]
        if len(members) < size:
            return None
        chosen.append(members[:size])
    return Split(np.sort(np.concatenate(chosen)), split.validation[:0], split.test)
