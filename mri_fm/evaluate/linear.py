"""Linear and nearest-neighbour probes: standardise, (PCA,) model, all fitted and chosen on training units.

Axes: S units, C contrasts of a unit, F features, K classes (1 column where there are none).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from sklearn.decomposition import PCA
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from mri_fm.evaluate.estimators import COX_COMPONENTS, ESTIMATORS, STRENGTHS, Estimator, selection_loss
from mri_fm.evaluate.features import Features, concatenate
from mri_fm.evaluate.splits import inner_folds
from mri_fm.evaluate.target import Floats, Ints, Target

INNER_FOLDS = 3
PCA_COMPONENTS = 64
NEIGHBOURS = (1, 3, 5, 10, 20)
NEIGHBOUR_TEMPERATURE = 0.07  # Wu et al., CVPR 2018, §3.4


@dataclass(frozen=True, eq=False)
class Fitted:
    """Scores of a model.

    Attributes:
        test_SK: of the test units: class probabilities, values or log hazards.
        held_SK: of training units, by models that had not seen them: thresholds and temperatures are chosen on these.
        held: their numbers in the training part; none where it has too few groups.
    """

    test_SK: Floats
    held_SK: Floats
    held: Ints


Model = Callable[[float], Estimator]


def fit_linear(
    train: Features,
    target: Target,
    group_S: Ints,
    test: Features,
    *,
    held: Ints | None = None,
    seed: int,
    index: int,
    fusion: str = "mean",
    components: int | None = None,
) -> Fitted:
    """Logistic, ridge or Cox regression; its strength is chosen on inner folds of the training part.

    Args:
        train: features of the training (and validation) units.
        target: their labels.
        group_S: their groups.
        test: features of the test units.
        held: numbers of validation units in the training part; None: inner folds are drawn.
        seed, index: key these folds.
        fusion: of several contrasts: mean, concatenation, product.
        components: project onto that many principal components of the training units.
    """
    model = ESTIMATORS[target.kind]
    if target.kind == "survival":
        components = min(components or COX_COMPONENTS, COX_COMPONENTS)
    inner = _inner(target, group_S, held, seed, index)
    if fusion == "product" and train.present_SC.shape[1] > 1:
        return _experts(train, target, group_S, test, inner, model, components)
    train_SF, test_SF = concatenate(train, test) if fusion == "concatenation" else (train.mean(), test.mean())
    return _fit(train_SF, target, test_SF, inner, model, STRENGTHS[target.kind], components)


def fit_voxels(
    train: Features, target: Target, group_S: Ints, test: Features, *, held: Ints | None = None, seed: int, index: int,
    fusion: str = "mean",
) -> Fitted:  # fmt: skip
    """As `fit_linear`, on the first principal components of the training units."""
    return fit_linear(train, target, group_S, test, held=held, seed=seed, index=index, fusion=fusion, components=PCA_COMPONENTS)


def fit_neighbours(
    train: Features, target: Target, group_S: Ints, test: Features, *, held: Ints | None = None, seed: int, index: int,
    fusion: str = "mean",
) -> Fitted:  # fmt: skip
    """Nearest neighbours by cosine similarity; their number is chosen on inner folds. Not for survival."""
    train_SF, test_SF = concatenate(train, test) if fusion == "concatenation" else (train.mean(), test.mean())
    choices = tuple(float(k) for k in NEIGHBOURS if k <= max(1, len(train) // 2))
    return _fit(train_SF, target, test_SF, _inner(target, group_S, held, seed, index), Neighbours, choices, None)


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


def _inner(target: Target, group_S: Ints, held: Ints | None, seed: int, index: int) -> Ints | None:
    """Number of the inner fold of each training unit; -1: never held out."""
    if held is None or not len(held):
        return inner_folds(target, group_S, INNER_FOLDS, seed=seed, index=index)
    fold_S = np.full(len(target), -1, dtype=np.int64)
    fold_S[held] = 0
    return fold_S


def _fit(
    train_SF: Floats,
    target: Target,
    test_SF: Floats,
    fold_S: Ints | None,
    model: Model,
    strengths: tuple[float, ...],
    components: int | None,
) -> Fitted:
    """Choose the strength on the folds, then fit on all training units but those of a given validation part."""
    middle, empty = strengths[len(strengths) // 2], np.zeros(0, dtype=np.int64)
    held, strength, held_SK = empty, middle, np.zeros((0, target.outputs))
    learn_S = np.ones(len(target), dtype=np.bool_)
    if fold_S is not None and _learnable(target, fold_S):
        held = np.flatnonzero(fold_S >= 0)
        score_MSK = _held_out_scores(train_SF, target, fold_S, model, strengths, components)
        best = int(np.argmin([selection_loss(target[held], score_SK[held]) for score_SK in score_MSK]))
        strength, held_SK = strengths[best], score_MSK[best][held]
        learn_S = learn_S if len(held) == len(target) else fold_S < 0
    scale = _scaler(components, train_SF[learn_S].shape).fit(train_SF[learn_S])
    fitted = model(strength).fit(scale.transform(train_SF[learn_S]), target[learn_S])
    return Fitted(fitted.predict(scale.transform(test_SF)), held_SK, held)


def _learnable(target: Target, fold_S: Ints) -> bool:
    """Whether what is left of each fold has two classes at least."""
    folds = np.unique(fold_S[fold_S >= 0])
    return not target.classes or all(len(np.unique(target.labels[fold_S != fold])) > 1 for fold in folds)


def _held_out_scores(
    train_SF: Floats, target: Target, fold_S: Ints, model: Model, strengths: tuple[float, ...], components: int | None
) -> list[Floats]:
    """For each strength, the score of each held-out unit by a model of the other folds."""
    score_MSK = [np.full((len(target), target.outputs), np.nan) for _ in strengths]
    for fold in np.unique(fold_S[fold_S >= 0]):
        learn_S, held_S = fold_S != fold, fold_S == fold
        scale = _scaler(components, train_SF[learn_S].shape).fit(train_SF[learn_S])
        learn_SF, held_SF = scale.transform(train_SF[learn_S]), scale.transform(train_SF[held_S])
        for score_SK, strength in zip(score_MSK, strengths, strict=True):
            score_SK[held_S] = model(strength).fit(learn_SF, target[learn_S]).predict(held_SF)
    return score_MSK


def _scaler(components: int | None, shape: tuple[int, ...]) -> Pipeline:
    """Standardise; with `components`, project onto that many principal components.

    They keep their variances: to whiten them would raise the weakest, which are noise, to the height of the anatomy. With more
    features than units all components are taken: a rotation, which changes no penalised linear model, but its cost.
    """
    if components is None and shape[1] <= shape[0]:
        return make_pipeline(StandardScaler())
    return make_pipeline(StandardScaler(), PCA(min(components or shape[0], *shape), svd_solver="full"))


def _experts(
    train: Features, target: Target, group_S: Ints, test: Features, fold_S: Ints | None, model: Model, components: int | None
) -> Fitted:
    """One model for each contrast, on the units that have it; their scores are multiplied."""
    scores_SCK, held_SCK = (np.full((len(f), train.present_SC.shape[1], target.outputs), np.nan) for f in (test, train))
    for c in range(train.present_SC.shape[1]):
        has_S = train.present_SC[:, c]
        if len(np.unique(group_S[has_S])) < 2 or (target.classes and len(np.unique(target.labels[has_S])) < target.outputs):
            continue  # too few units to be an expert
        inner = None if fold_S is None else fold_S[has_S]
        fitted = _fit(train.contrast(c)[has_S].mean(), target[has_S], test.contrast(c).mean(), inner, model,
                      STRENGTHS[target.kind], components)  # fmt: skip
        scores_SCK[:, c] = np.where(test.present_SC[:, c, None], fitted.test_SK, np.nan)
        held_SCK[np.flatnonzero(has_S)[fitted.held], c] = fitted.held_SK
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
