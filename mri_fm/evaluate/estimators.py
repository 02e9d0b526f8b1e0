"""Linear models of the three kinds of target behind one interface: scikit-learn's and lifelines', and the loss each minimises.

Axes: S units, F features, K classes (1 column where there are none).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression, Ridge

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

    def fit(self, feature_SF: Floats, target: Target) -> Cox:
        """Fit."""
        from lifelines import CoxPHFitter  # slow to import, and few tasks need it
        from pandas import DataFrame

        frame = DataFrame(feature_SF).assign(time=target.value_S, event=target.event_S)
        self._model = CoxPHFitter(penalizer=self._strength).fit(frame, "time", "event")
        return self

    def predict(self, feature_SF: Floats) -> Floats:
        """Log of the hazard, relative to that of the mean training unit."""
        return np.asarray(self._model.predict_log_partial_hazard(feature_SF), dtype=np.float64)[:, None]


ESTIMATORS: dict[str, Callable[[float], Estimator]] = {"classification": Logistic, "regression": Linear, "survival": Cox}
STRENGTHS = {"classification": Logistic.strengths, "regression": Linear.strengths, "survival": Cox.strengths}
COX_COMPONENTS = 16
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
