"""Out-of-fold scores of every method on the same splits, and what they are worth on the same resamples.

Axes: S units, T tested units, K classes, R resamples, M refits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from mri_fm.errors import UserError
from mri_fm.evaluate.calibration import decide, soften, temperature
from mri_fm.evaluate.draws import Draw, drawer
from mri_fm.evaluate.features import Features
from mri_fm.evaluate.methods import HEADLINE, TRAINED, Method
from mri_fm.evaluate.metrics import Scores, measure
from mri_fm.evaluate.progress import progress
from mri_fm.evaluate.splits import Split
from mri_fm.evaluate.statistics import Resamples, interval
from mri_fm.evaluate.target import Floats, Ints, Target
from mri_fm.evaluate.task import Task
from mri_fm.evaluate.training import Fit, Fitted, TrainingPart

HEADLINE_METHOD = f"{HEADLINE}/{TRAINED}"
Say = Callable[[str], None]
Splitter = Callable[[Target, int], Sequence[Split]]
"""The splits for a target, true or permuted, and a seed."""


@dataclass(frozen=True)
class Comparison:
    """Scores of every refit by method ("linear/trained", …, "raw_voxel"), and which units they are of."""

    scores: dict[str, list[Scores]]
    tested_T: Ints
    resamples: Resamples


def out_of_fold(
    features: Features, target: Target, group_S: Ints, splits: Sequence[Split], fit: Fit, *, seed: int
) -> tuple[Ints, Scores]:
    """Scores of each tested unit by a model that saw no unit of its part, decided and calibrated on validation units.

    `fit` gets nothing else of the test part than its features.

    Returns:
        Numbers of the tested units, ascending, and their scores.
    """
    tested, parts = [], []
    for number, split in enumerate(splits):
        part = _training_part(features, target, group_S, split, seed=seed, number=number)
        fitted = fit(part, features[split.test])
        tested.append(split.test)
        parts.append(_decided(fitted, part.target[fitted.held], target[split.test]))
    order = np.argsort(np.concatenate(tested), kind="stable")
    joined = [
        np.concatenate([getattr(p, name) for p in parts])[order] for name in ("score_SK", "balanced_S", "f1_S", "calibrated_SK")
    ]
    tested_T = np.concatenate(tested)[order]
    return tested_T, Scores(target[tested_T], *joined)


def _training_part(features: Features, target: Target, group_S: Ints, split: Split, *, seed: int, number: int) -> TrainingPart:
    """What the model of the `number`-th split may see."""
    learn = np.concatenate([split.train, split.validation])
    held = np.arange(len(split.train), len(learn)) if len(split.validation) else None
    return TrainingPart(features[learn], target[learn], group_S[learn], held, seed, number + 1)


@threadpool_limits.wrap(limits=1)
def score_again(task: Task, method: Method, splits: Sequence[Split], seed: int, unit: int, test: Features) -> Floats:
    """Scores (S, K) of other features by the model of the first refit that tested `unit`; of its own, those in the table."""
    number = next(i for i, split in enumerate(splits) if unit in split.test)
    part = _training_part(method.of_refit(0), task.target, task.group_S, splits[number], seed=seed, number=number)
    return method.fit(part, test).test_SK


def _decided(fitted: Fitted, held: Target, test: Target) -> Scores:
    if test.kind != "classification":
        nothing = np.zeros(len(test), dtype=np.int64)
        return Scores(test, fitted.test_SK, nothing, nothing, fitted.test_SK)
    balanced_S, f1_S = (decide(held, fitted.held_SK, fitted.test_SK, metric) for metric in ("balanced_accuracy", "f1"))
    calibrated_SK = soften(fitted.test_SK, temperature(held, fitted.held_SK))
    return Scores(test, fitted.test_SK, balanced_S, f1_S, calibrated_SK)


@threadpool_limits.wrap(limits=1)  # small products: one thread is faster, and the sums do not depend on the machine
def compare(task: Task, methods: Mapping[str, Method], splitter: Splitter, *, refits: int, seed: int, say: Say) -> Comparison:
    """Fit every method on every refit's splits.

    Args:
        task: labels and groups.
        methods: what to fit.
        splitter: draws the splits of a refit; published ones are the same for all.
        refits: how often everything is drawn and fitted again; one with several features (random encoders) at least as often
            as it has features.
        seed: keys splits, probes and resamples.
        say: told what is fitted.

    Raises:
        UserError: too few groups for the folds, or a class that lies in one fold.
    """
    scores: dict[str, list[Scores]] = {}
    tested_T = np.zeros(0, dtype=np.int64)
    for name, method in methods.items():
        say(f"{task.name}: fitting {name}")
        scores[name] = []
        count = max(refits, len(method.features))
        for refit in progress(range(count), name, count, unit="refit"):
            splits = splitter(task.target, seed + refit)
            tested_T, found = out_of_fold(
                method.of_refit(refit), task.target, task.group_S, splits, method.fit, seed=seed + refit
            )
            scores[name].append(found)
    return Comparison(scores, tested_T, Resamples.draw(task.group_S[tested_T], seed=seed))


@threadpool_limits.wrap(limits=1)
def null_distribution(task: Task, method: Method, splitter: Splitter, *, permutations: int, seed: int) -> list[float]:
    """The task's metric of a method that learns and is tested on permuted labels, once for each permutation.

    A permutation that leaves some training part without a class, as happens with few units, has no value and is left out.
    """
    features, values = method.of_refit(0), []
    for number in progress(range(permutations), "permutations", permutations):
        target = permute(task.target, task.group_S, seed=seed, index=number)
        try:
            splits = splitter(target, seed)
        except UserError:
            continue
        _, scores = out_of_fold(features, target, task.group_S, splits, method.fit, seed=seed)
        values.append(float(measure(task.spec.metric, scores)[0]))
    return values


def permute(target: Target, group_S: Ints, *, seed: int, index: int) -> Target:
    """Labels shuffled among groups where all units of a group share one, else among units."""
    rng = drawer(seed, Draw.PERMUTATION, index)
    groups, first_G, number_S = np.unique(group_S, return_index=True, return_inverse=True)
    shared = np.array_equal(target.value_S, target.value_S[first_G][number_S])
    if target.kind == "survival":
        shared = shared and np.array_equal(target.event_S, target.event_S[first_G][number_S])
    order_S = first_G[rng.permutation(len(groups))][number_S] if shared else rng.permutation(len(target))
    return target.permuted(order_S)


def measured(metric: str, comparison: Comparison, method: str) -> dict[str, Any]:
    """A metric of a method: mean over refits, its interval, and each refit's value."""
    refits = comparison.scores[method]
    values = [float(measure(metric, scores)[0]) for scores in refits]
    resampled_R = comparison.resamples.values([partial(measure, metric, scores) for scores in refits])
    return {"value": float(np.mean(values)), "interval": interval(resampled_R), "refits": values}


def gain(metric: str, comparison: Comparison, ours: str, other: str) -> dict[str, Any]:
    """By how much a method is above another, with the interval of the paired difference."""
    point, resampled = [], []
    for method in (ours, other):
        refits = comparison.scores[method]
        point.append(np.mean([float(measure(metric, scores)[0]) for scores in refits]))
        resampled.append(comparison.resamples.values([partial(measure, metric, scores) for scores in refits]))
    return {"value": float(point[0] - point[1]), "interval": interval(resampled[0] - resampled[1])}
