"""Several contrasts of a unit by a product of experts: one model for each.

Axes: S units, C contrasts of a unit, K outputs.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mri_fm.evaluate.features import Features
from mri_fm.evaluate.target import Floats
from mri_fm.evaluate.training import Fit, Fitted, TrainingPart


def product_of_experts(part: TrainingPart, test: Features, fit: Fit) -> Fitted:
    """One model for each contrast, on the units that have it; their scores are multiplied."""
    target, slots = part.target, part.features.present_SC.shape[1]
    scores_SCK, held_SCK = (np.full((len(f), slots, target.outputs), np.nan) for f in (test, part))
    for c in range(slots):
        expert, has_S = part.contrast(c)
        if not expert.can_teach(target.outputs):
            continue
        fitted = fit(replace(expert, index=part.index * slots + c), test.contrast(c))
        scores_SCK[:, c] = np.where(test.present_SC[:, c, None], fitted.test_SK, np.nan)
        held_SCK[has_S[fitted.held], c] = fitted.held_SK
    held = np.flatnonzero(~np.isnan(held_SCK).all(axis=(1, 2)))
    return Fitted(multiply(scores_SCK, target.prior, target.kind), multiply(held_SCK[held], target.prior, target.kind), held)


def multiply(score_SCK: Floats, prior_K: Floats, kind: str) -> Floats:
    """Product of experts (Hinton 2002): Π p(y|x_c) / p(y)^(n-1) over the n contrasts that a unit has, normalised.

    Of values the mean, of log hazards the sum. Where no expert speaks: the prior (the mean value), or a log hazard of 0.
    """
    speaks_SC = np.logical_not(np.isnan(score_SCK).any(axis=2))
    if kind == "survival":
        return np.nansum(score_SCK, axis=1)
    if kind == "regression":
        count_S1 = speaks_SC.sum(axis=1)[:, None]
        return np.where(count_S1 > 0, np.nansum(score_SCK, axis=1) / np.maximum(count_S1, 1), prior_K)
    log_SCK = np.log(np.clip(np.nan_to_num(score_SCK), 1e-12, 1)) * speaks_SC[..., None]
    log_SK = log_SCK.sum(axis=1) - (speaks_SC.sum(axis=1)[:, None] - 1) * np.log(np.maximum(prior_K, 1e-12))
    probability_SK = np.exp(log_SK - log_SK.max(axis=1, keepdims=True))
    return probability_SK / probability_SK.sum(axis=1, keepdims=True)
