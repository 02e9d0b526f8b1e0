"""The figures of result.json, out of scores.

Axes: S units, R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mri_fm.evaluate.calibration import reliability
from mri_fm.evaluate.compare import HEADLINE_METHOD, Comparison, gain, measured
from mri_fm.evaluate.methods import HEADLINE, NUISANCE, PERMUTED, RANDOM, SUPERVISED, TRAINED, VOXELS
from mri_fm.evaluate.metrics import CHANCE, SMALLER_IS_BETTER
from mri_fm.evaluate.spec import METRICS
from mri_fm.evaluate.statistics import delong, permutation_p
from mri_fm.evaluate.task import Task

BASELINES = (VOXELS, NUISANCE, SUPERVISED)
ALSO = {"classification": ("ece", "ece_calibrated"), "regression": (), "survival": ()}


def figures_of(task: Task, comparison: Comparison, null: Sequence[float]) -> dict[str, Any]:
    """Every method's metrics with intervals, gains, tests and baselines.

    Args:
        task: what was asked.
        comparison: scores of all methods.
        null: the task's metric on permuted labels.
    """
    metric = task.spec.metric
    wanted = (*METRICS[task.target.kind], *ALSO[task.target.kind])
    methods = {name: {m: measured(m, comparison, name) for m in wanted} for name in comparison.scores}
    named = {name: _named(metric, found) for name, found in methods.items()}
    ours, random = named[HEADLINE_METHOD], named[f"{HEADLINE}/{RANDOM}"]
    return {
        "metric": metric,
        "headline": HEADLINE,
        metric: ours[metric],
        "interval": ours["interval"],
        f"{RANDOM}_{metric}": random[metric],
        f"{VOXELS}_{metric}": named[VOXELS][metric],
        RANDOM: random | {"seeds": len(random["refits"])},
        **{name: named[name] for name in BASELINES},
        PERMUTED: _null(metric, ours[metric], null),
        "probes": _probes(task, comparison, named),
        "methods": methods,
        "refits": len(comparison.scores[HEADLINE_METHOD]),
        "resamples": len(comparison.resamples.refit_R),
        "n_tested": len(comparison.tested_T),
        "calibration": _calibration(task, comparison),
    }


def _named(metric: str, found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {metric: found[metric]["value"], "interval": found[metric]["interval"], "refits": found[metric]["refits"]}


def _null(metric: str, value: float, null: Sequence[float]) -> dict[str, Any]:
    """The distribution of the metric where labels mean nothing, and how rarely it reaches the headline's value."""
    if not null:
        return {metric: CHANCE.get(metric), "count": 0}
    low, high = np.quantile(null, [0.025, 0.975])
    return {
        metric: float(np.mean(null)),
        "std": float(np.std(null)),
        "interval": [float(low), float(high)],
        "count": len(null),
        "p": permutation_p(value, null, smaller_is_better=metric in SMALLER_IS_BETTER),
    }


def _probes(task: Task, comparison: Comparison, named: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Each probe's value on the trained encoder beside random encoders and raw voxels, on the same resamples."""
    metric, found = task.spec.metric, {}
    for name in comparison.scores:
        probe, _, encoder = name.partition("/")
        if encoder != TRAINED:
            continue
        found[probe] = {metric: named[name][metric], "interval": named[name]["interval"]}
        random = f"{probe}/{RANDOM}"
        for other, key in ((random, RANDOM), (VOXELS, VOXELS)):
            if other in named:
                difference = gain(metric, comparison, name, other)
                found[probe] |= {
                    f"{key}_{metric}": named[other][metric],
                    f"{key}_interval": named[other]["interval"],
                    f"gain_over_{key}": difference["value"],
                    f"gain_over_{key}_interval": difference["interval"],
                    f"delong_against_{key}": _delong(task, comparison, name, other),
                }
    return found


def _delong(task: Task, comparison: Comparison, ours: str, other: str) -> dict[str, Any] | None:
    """DeLong's test of the first refits; None beyond two classes."""
    if task.target.outputs != 2:
        return None
    one, two = comparison.scores[ours][0], comparison.scores[other][0]
    score_2S = np.stack([one.score_SK[:, 1], two.score_SK[:, 1]])
    result = delong(one.target.labels == 1, score_2S, task.group_S[comparison.tested_T])
    return {"difference": result.difference, "interval": result.interval(), "p": result.p}


def _calibration(task: Task, comparison: Comparison) -> dict[str, Any] | None:
    """Reliability of the headline's first refit, as it is and at the temperature of the validation units."""
    if task.target.kind != "classification":
        return None
    scores = comparison.scores[HEADLINE_METHOD][0]
    pairs = {"raw": scores.score_SK, "temperature": scores.calibrated_SK}
    return {name: reliability(scores.target.labels, probability_SK) for name, probability_SK in pairs.items()}
