"""Linear and nearest-neighbour probes: standardise, (PCA,) model, all fitted and chosen on training units.

Axes: S units, F features, K classes (1 column where there are none).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from sklearn.decomposition import PCA
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from mri_fm.evaluate.estimators import COX_COMPONENTS, ESTIMATORS, STRENGTHS, Estimator, selection_loss
from mri_fm.evaluate.experts import product_of_experts
from mri_fm.evaluate.features import Features, concatenate
from mri_fm.evaluate.splits import inner_folds
from mri_fm.evaluate.target import Floats, Ints, Target
from mri_fm.evaluate.training import Fitted, TrainingPart

INNER_FOLDS = 3
PCA_COMPONENTS = 64
NEIGHBOURS = (1, 3, 5, 10, 20)
NEIGHBOUR_TEMPERATURE = 0.07  # Wu et al., CVPR 2018, §3.4


@dataclass(frozen=True)
class Family:
    """Models of which validation chooses one.

    Attributes:
        model: builds the model of a strength.
        strengths: to choose from.
        components: features are projected onto that many principal components of the training units; None: they are not.
    """

    model: Callable[[float], Estimator]
    strengths: tuple[float, ...]
    components: int | None = None


def fit_linear(part: TrainingPart, test: Features, *, fusion: str = "mean", components: int | None = None) -> Fitted:
    """Logistic, ridge or Cox regression; its strength is chosen on inner folds of the training part.

    Args:
        part: what is learned.
        test: features of the test units.
        fusion: of several contrasts: mean, concatenation, product.
        components: project onto that many principal components of the training units.
    """
    if fusion == "product" and part.features.present_SC.shape[1] > 1:
        return product_of_experts(part, test, partial(fit_linear, components=components))
    kind = part.target.kind
    if kind == "survival":
        components = min(components or COX_COMPONENTS, COX_COMPONENTS)
    return _fit(part, *_fused(part, test, fusion), Family(ESTIMATORS[kind], STRENGTHS[kind], components))


def fit_voxels(part: TrainingPart, test: Features, *, fusion: str = "mean") -> Fitted:
    """As `fit_linear`, on the first principal components of the training units."""
    return fit_linear(part, test, fusion=fusion, components=PCA_COMPONENTS)


def fit_neighbours(part: TrainingPart, test: Features, *, fusion: str = "mean") -> Fitted:
    """Nearest neighbours by cosine similarity; their number is chosen on inner folds. Not for survival."""
    if fusion == "product" and part.features.present_SC.shape[1] > 1:
        return product_of_experts(part, test, fit_neighbours)
    counts = tuple(float(k) for k in NEIGHBOURS if k <= max(1, len(part) // 2))
    return _fit(part, *_fused(part, test, fusion), Family(Neighbours, counts))


def _fused(part: TrainingPart, test: Features, fusion: str) -> tuple[Floats, Floats]:
    """One row of features for each training and each test unit."""
    return concatenate(part.features, test) if fusion == "concatenation" else (part.features.mean(), test.mean())


class Neighbours:
    """Mean label of the `strength` nearest training units, weighted by exp(cosine / 0.07) (Wu et al., CVPR 2018)."""

    def __init__(self, strength: float) -> None:
        self._count = int(strength)

    def fit(self, feature_SF: Floats, target: Target) -> Neighbours:
        """Keep the training units."""
        self._unit_SF, self._kind = _unit_rows(feature_SF), target.kind
        self._label_SK = np.eye(target.outputs)[target.labels] if target.classes else target.value_S[:, None]
        return self

    def predict(self, feature_SF: Floats) -> Floats:
        """Class probabilities, never quite 0 or 1, or values."""
        cosine_SS = _unit_rows(feature_SF) @ self._unit_SF.T
        count = min(self._count, cosine_SS.shape[1])
        nearest_Sn = np.argsort(-cosine_SS, axis=1, kind="stable")[:, :count]
        weight_Sn = np.exp((np.take_along_axis(cosine_SS, nearest_Sn, axis=1) - 1) / NEIGHBOUR_TEMPERATURE)
        weight_Sn /= weight_Sn.sum(axis=1, keepdims=True)
        score_SK = (weight_Sn[..., None] * self._label_SK[nearest_Sn]).sum(axis=1)
        return (score_SK * count + self._label_SK.mean(axis=0)) / (count + 1) if self._kind == "classification" else score_SK


def _unit_rows(feature_SF: Floats) -> Floats:
    return feature_SF / np.maximum(np.linalg.norm(feature_SF, axis=1, keepdims=True), 1e-12)


def _inner(part: TrainingPart) -> Ints | None:
    """Number of the inner fold of each training unit; -1: never held out."""
    if not part.has_validation:
        return inner_folds(part.target, part.group_S, INNER_FOLDS, seed=part.seed, index=part.index)
    fold_S = np.full(len(part), -1, dtype=np.int64)
    fold_S[part.held] = 0
    return fold_S


def _fit(part: TrainingPart, train_SF: Floats, test_SF: Floats, family: Family) -> Fitted:
    """Choose the strength on the folds, then fit on all training units but those of a given validation part."""
    target, fold_S = part.target, _inner(part)
    strength, held, held_SK = (
        family.strengths[len(family.strengths) // 2],
        np.zeros(0, dtype=np.int64),
        np.zeros((0, target.outputs)),
    )
    learn_S = np.ones(len(target), dtype=np.bool_)
    if fold_S is not None and _learnable(target, fold_S):
        held = np.flatnonzero(fold_S >= 0)
        score_MSK = _held_out_scores(train_SF, target, fold_S, family)
        best = int(np.argmin([selection_loss(target[held], score_SK[held]) for score_SK in score_MSK]))
        strength, held_SK = family.strengths[best], score_MSK[best][held]
        learn_S = learn_S if len(held) == len(target) else fold_S < 0
    scale = _scaler(family.components, train_SF[learn_S].shape).fit(train_SF[learn_S])
    fitted = family.model(strength).fit(scale.transform(train_SF[learn_S]), target[learn_S])
    return Fitted(fitted.predict(scale.transform(test_SF)), held_SK, held)


def _learnable(target: Target, fold_S: Ints) -> bool:
    """Whether what is left of each fold has two classes at least."""
    folds = np.unique(fold_S[fold_S >= 0])
    return not target.classes or all(len(np.unique(target.labels[fold_S != fold])) > 1 for fold in folds)


def _held_out_scores(train_SF: Floats, target: Target, fold_S: Ints, family: Family) -> list[Floats]:
    """For each strength, the score of each held-out unit by a model of the other folds."""
    score_MSK = [np.full((len(target), target.outputs), np.nan) for _ in family.strengths]
    for fold in np.unique(fold_S[fold_S >= 0]):
        learn_S, held_S = fold_S != fold, fold_S == fold
        scale = _scaler(family.components, train_SF[learn_S].shape).fit(train_SF[learn_S])
        learn_SF, held_SF = scale.transform(train_SF[learn_S]), scale.transform(train_SF[held_S])
        for score_SK, strength in zip(score_MSK, family.strengths, strict=True):
            score_SK[held_S] = family.model(strength).fit(learn_SF, target[learn_S]).predict(held_SF)
    return score_MSK


def _scaler(components: int | None, shape: tuple[int, ...]) -> Pipeline:
    """Standardise; with `components`, project onto that many principal components.

    They keep their variances: to whiten them would raise the weakest, which are noise, to the height of the anatomy. With more
    features than units all components are taken: a rotation, which changes no penalised linear model, but its cost.
    """
    if components is None and shape[1] <= shape[0]:
        return make_pipeline(StandardScaler())
    return make_pipeline(StandardScaler(), PCA(min(components or shape[0], *shape), svd_solver="full"))
