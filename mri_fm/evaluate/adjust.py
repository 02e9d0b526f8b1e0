"""Features without what age, sex or site put into them: learned inside the training part of each fold.

Axes: S units, F features, C covariates.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mri_fm.evaluate.combat import ComBat
from mri_fm.evaluate.features import Features
from mri_fm.evaluate.linear import fit_linear
from mri_fm.evaluate.target import Floats, Ints
from mri_fm.evaluate.training import Fitted, TrainingPart

LEAST_OF_A_SITE = 3  # training units from which a site's effects are estimated


def with_covariates(features: Features, covariate_SC: Floats) -> Features:
    """Mean-fused features with covariates behind them, so that they are split alike."""
    return Features.plain(np.concatenate([features.mean(), covariate_SC], axis=1))


def fit_residual(part: TrainingPart, test: Features, *, covariates: int) -> Fitted:
    """As `fit_linear`, on what the last `covariates` columns do not explain linearly of the others."""
    known_SF, asked_SF = part.features.mean(), test.mean()
    cause_SC, effect_SF = _split(known_SF, covariates)
    design_SC = np.concatenate([np.ones((len(part), 1)), cause_SC], axis=1)
    slope_CF, *_ = np.linalg.lstsq(design_SC, effect_SF, rcond=None)
    rest = []
    for feature_SF in (known_SF, asked_SF):
        cause_SC, effect_SF = _split(feature_SF, covariates)
        rest.append(Features.plain(effect_SF - np.concatenate([np.ones((len(cause_SC), 1)), cause_SC], axis=1) @ slope_CF))
    return fit_linear(part.reading(rest[0]), rest[1])


def fit_harmonised(part: TrainingPart, test: Features, *, covariates: int) -> Fitted:
    """As `fit_linear`, after ComBat over the site in the last column; the `covariates` columns before it are kept.

    Sites with fewer than `LEAST_OF_A_SITE` training units, and those of test units alone, are left as they are.
    """
    known_SF, asked_SF = part.features.mean(), test.mean()
    sites, count = np.unique(known_SF[:, -1], return_counts=True)
    sites = sites[count >= LEAST_OF_A_SITE]
    if len(sites) < 2:
        rest = [Features.plain(x_SF[:, : -1 - covariates]) for x_SF in (known_SF, asked_SF)]
        return fit_linear(part.reading(rest[0]), rest[1])
    numbers = [_numbers(x_SF[:, -1], sites) for x_SF in (known_SF, asked_SF)]
    cause_SC, effect_SF = _split(known_SF[:, :-1], covariates)
    learn_S = numbers[0] >= 0
    model = ComBat.fit(effect_SF[learn_S], numbers[0][learn_S], cause_SC[learn_S])
    rest = []
    for x_SF, number_S in zip((known_SF, asked_SF), numbers, strict=True):
        cause_SC, effect_SF = _split(x_SF[:, :-1], covariates)
        rest.append(Features.plain(model.apply(effect_SF, number_S, cause_SC)))
    return fit_linear(part.reading(rest[0]), rest[1])


def _split(feature_SF: Floats, covariates: int) -> tuple[Floats, Floats]:
    """The last columns, and the others."""
    border = feature_SF.shape[1] - covariates
    return feature_SF[:, border:], feature_SF[:, :border]


def _numbers(site_S: Floats, sites: Floats) -> Ints:
    """The place of each site among those known, -1 for others."""
    place_S = np.searchsorted(sites, site_S).clip(max=len(sites) - 1)
    return np.where(sites[place_S] == site_S, place_S, -1)


def numeric(values: Sequence[object]) -> Floats:
    """One column of numbers: as they are, or the number of each text in ascending order; the mean where one is missing."""
    if all(isinstance(value, float | int) or value is None for value in values):
        number_S = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    else:
        names = sorted({str(value) for value in values if value is not None})
        number_S = np.array([np.nan if value is None else names.index(str(value)) for value in values], dtype=np.float64)
    return np.where(np.isnan(number_S), np.nanmean(number_S), number_S)
