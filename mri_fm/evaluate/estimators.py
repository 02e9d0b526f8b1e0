"""Linear models of the three kinds of target behind one interface: scikit-learn's and lifelines', and the loss each minimises.

Axes: S units, F features, K classes (1 column where there are none).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression, Ridge

from mri_fm.errors import UserError
from mri_fm.evaluate.target import Floats, Target


class Estimator(Protocol):
    """A model that has one strength, to be chosen on validation."""

    def fit(self, feature_SF: Floats, target: Target) -> Estimator:
        """Fit."""

    def predict(self, feature_SF: Floats) -> Floats:
        """Class probabilities (S, K), values (S, 1) or log hazards (S, 1)."""


class Logistic:
    """Logistic regression with an L2 penalty of 1/(2C)."""

    strengths = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)

    def __init__(self, strength: float) -> None:
        self._model, self._classes = LogisticRegression(C=strength, max_iter=1000), 0

    def fit(self, feature_SF: Floats, target: Target) -> Logistic:
        """Fit; classes that the part lacks get probability 0."""
        self._model.fit(feature_SF, target.labels)
        self._classes = len(target.classes)
        return self

    def predict(self, feature_SF: Floats) -> Floats:
        """Class probabilities."""
        score_SK = np.zeros((len(feature_SF), self._classes))
        score_SK[:, self._model.classes_] = self._model.predict_proba(feature_SF)
        return score_SK


class Linear:
    """Ridge regression; the penalty is relative to the number of units."""

    strengths = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0, 1000.0)

    def __init__(self, strength: float) -> None:
        self._strength, self._model = strength, Ridge()

    def fit(self, feature_SF: Floats, target: Target) -> Linear:
        """Fit."""
        self._model = Ridge(alpha=self._strength * len(feature_SF)).fit(feature_SF, target.value_S)
        return self

    def predict(self, feature_SF: Floats) -> Floats:
        """Values."""
        return np.asarray(self._model.predict(feature_SF), dtype=np.float64)[:, None]


class Cox:
    """Cox's proportional hazards with an L2 penalty (lifelines)."""

    strengths = (1e-2, 1e-1, 1.0, 10.0)

    def __init__(self, strength: float) -> None:
        self._strength: float = strength
        self._model: Any = None
        self._kept_F = np.zeros(0, dtype=np.int64)

    def fit(self, feature_SF: Floats, target: Target) -> Cox:
        """Fit.

        Raises:
            UserError: the likelihood has no maximum that lifelines finds.
        """
        from lifelines import CoxPHFitter  # slow to import, and few tasks need it
        from lifelines.exceptions import ConvergenceError, ConvergenceWarning
        from pandas import DataFrame

        spread_F = feature_SF.std(axis=0)  # lifelines scales every column to 1: one that hardly varies would become noise
        self._kept_F = np.flatnonzero(spread_F > FLAT * max(spread_F.max(), 1e-12))
        frame = DataFrame(feature_SF[:, self._kept_F]).assign(time=target.value_S, event=target.event_S)
        with warnings.catch_warnings():  # with a penalty a column of small variance does no harm
            warnings.filterwarnings("ignore", "Column.*very low variance", ConvergenceWarning)
            warnings.filterwarnings("ignore", "Starting with pandas version 4", DeprecationWarning, "lifelines")
            try:
                self._model = CoxPHFitter(penalizer=self._strength).fit(frame, "time", "event")
            except ConvergenceError as error:
                raise UserError(
                    f"Cox regression of {len(target)} units with {int(target.event_S.sum())} events does not converge "
                    f"({str(error).splitlines()[0]}); take more units, or fewer folds so that more of them are learned"
                ) from error
        return self

    def predict(self, feature_SF: Floats) -> Floats:
        """Log of the hazard, relative to that of the mean training unit."""
        return np.asarray(self._model.predict_log_partial_hazard(feature_SF[:, self._kept_F]), dtype=np.float64)[:, None]


ESTIMATORS: dict[str, Callable[[float], Estimator]] = {"classification": Logistic, "regression": Linear, "survival": Cox}
STRENGTHS = {"classification": Logistic.strengths, "regression": Linear.strengths, "survival": Cox.strengths}
COX_COMPONENTS = 16
FLAT = 1e-6  # share of the largest deviation below which a column is taken for constant
TINY = 1e-15  # least probability whose logarithm is taken


def selection_loss(target: Target, score_SK: Floats) -> float:
    """What a strength or an epoch is chosen by: log loss, squared error, or Cox's negative log partial likelihood; a sum."""
    if target.kind == "classification":
        return float(-np.log(np.clip(score_SK[np.arange(len(target)), target.labels], TINY, 1)).sum())
    if target.kind == "regression":
        return float(((target.value_S - score_SK[:, 0]) ** 2).sum())
    return partial_likelihood_loss(target, score_SK[:, 0])


def partial_likelihood_loss(target: Target, hazard_S: NDArray[np.float64]) -> float:
    """Negative log partial likelihood (Cox 1975), ties as Breslow (1974) has them."""
    at_risk_SS = target.value_S[None, :] >= target.value_S[:, None]
    sum_S = np.logaddexp.reduce(np.where(at_risk_SS, hazard_S[None, :], -np.inf), axis=1)
    return float((sum_S - hazard_S)[target.event_S].sum())
