"""Out-of-fold scores of every method on the same folds, and their AUROC with intervals on the same resamples.

Axes: S samples (volumes), K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from torch import Tensor

from mri_fm.errors import UserError
from mri_fm.evaluate.attentive import fit_attentive
from mri_fm.evaluate.embed import Embedded
from mri_fm.evaluate.linear import fit_linear, fit_voxels
from mri_fm.evaluate.splits import Ints, grouped_folds, missing_class
from mri_fm.evaluate.statistics import Floats, auroc, bootstrap, interval
from mri_fm.evaluate.task import Task

TRAINED, RANDOM = "trained", "random_init"
VOXELS = "raw_voxel"
PROBES = ("linear", "attentive")
HEADLINE = "linear"  # fixed before any result is seen


@dataclass(frozen=True)
class Comparison:
    """Scores by method ("linear/trained", …, "raw_voxel"), folds, and the figures of result.json."""

    scores: dict[str, Floats]
    fold_S: Ints
    figures: dict[str, Any]


def out_of_fold(
    features: NDArray[np.float32] | Tensor, label_S: Ints, unit_S: Ints, fold_S: Ints, fit: Callable[..., Floats], *, seed: int
) -> Floats:
    """Class probabilities (S, K) of each sample by a model that saw no sample of its fold.

    `fit(train_features, train_label_S, train_unit_S, test_features, seed=…, index=…)` gets nothing else of the test fold
    than its features.
    """
    score_SK = np.full((len(label_S), int(label_S.max()) + 1), np.nan)
    for fold in np.unique(fold_S):
        train, test = np.flatnonzero(fold_S != fold), np.flatnonzero(fold_S == fold)
        score_SK[test] = fit(features[train], label_S[train], unit_S[train], features[test], seed=seed, index=int(fold) + 1)
    return score_SK


@threadpool_limits.wrap(limits=1)  # small products: one thread is faster, and the sums do not depend on the machine
def compare(task: Task, embedded: Embedded, *, folds: int, heads: int, seed: int) -> Comparison:
    """Fit every probe on every representation.

    Args:
        task: labels and units.
        embedded: with the encoders `TRAINED` and `RANDOM`.
        folds: unit-disjoint folds.
        heads: attention heads of the attentive probe.
        seed: keys folds, probes and resamples.

    Raises:
        UserError: too few units for the folds, or a class that lies in one fold.
    """
    fold_S = grouped_folds(task.label_S, task.unit_S, folds, seed=seed)
    absent = missing_class(task.label_S, fold_S)
    if absent is not None:
        raise UserError(
            f"class '{task.classes[absent]}' of '{task.label}' lies in one fold of {folds}; take other --folds or --unit"
        )
    predict = partial(out_of_fold, label_S=task.label_S, unit_S=task.unit_S, fold_S=fold_S, seed=seed)
    scores = {VOXELS: predict(embedded.voxel_SF, fit=fit_voxels)}
    for name in (TRAINED, RANDOM):
        scores[f"linear/{name}"] = predict(embedded.pooled[name], fit=fit_linear)
        scores[f"attentive/{name}"] = predict(embedded.tokens[name], fit=partial(fit_attentive, heads=heads))
    return Comparison(scores, fold_S, _figures(task, scores, seed))


def _figures(task: Task, scores: Mapping[str, Floats], seed: int) -> dict[str, Any]:
    resampled = bootstrap(task.label_S, scores, task.unit_S, seed=seed)
    point = {name: float(auroc(task.label_S, score_SK)[0]) for name, score_SK in scores.items()}
    spread = {name: interval(values_R) for name, values_R in resampled.items()}
    probes = {}
    for probe in PROBES:
        ours, random = f"{probe}/{TRAINED}", f"{probe}/{RANDOM}"
        probes[probe] = {
            "auroc": point[ours],
            "interval": spread[ours],
            "random_init_auroc": point[random],
            "random_init_interval": spread[random],
            "gain_over_random_init": point[ours] - point[random],
            "gain_interval": interval(resampled[ours] - resampled[random]),
            "gain_over_raw_voxel": point[ours] - point[VOXELS],
            "gain_over_raw_voxel_interval": interval(resampled[ours] - resampled[VOXELS]),
        }
    return {
        "probes": probes,
        "raw_voxel": {"auroc": point[VOXELS], "interval": spread[VOXELS]},
        "headline": HEADLINE,
        "auroc": point[f"{HEADLINE}/{TRAINED}"],
        "interval": spread[f"{HEADLINE}/{TRAINED}"],
        "random_init_auroc": point[f"{HEADLINE}/{RANDOM}"],
        "raw_voxel_auroc": point[VOXELS],
        "resamples": int(np.isfinite(resampled[VOXELS]).sum()),
    }
