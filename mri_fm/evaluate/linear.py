"""The linear probe and the raw-voxel baseline: standardise, (PCA,) logistic regression, all fitted on training samples.

Axes: S samples (volumes), F features, K classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from mri_fm.evaluate.splits import Ints, grouped_folds, missing_class

STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
INNER_FOLDS = 3
PCA_COMPONENTS = 64


def fit_linear(
    feature_SF: NDArray[np.float32], label_S: Ints, unit_S: Ints, test_SF: NDArray[np.float32], *, seed: int, index: int
) -> NDArray[np.float64]:
    """Class probabilities (S, K) of the test samples; C is chosen on inner folds of the training samples."""
    return _fit_and_predict(feature_SF, label_S, unit_S, test_SF, components=None, seed=seed, index=index)


def fit_voxels(
    feature_SF: NDArray[np.float32], label_S: Ints, unit_S: Ints, test_SF: NDArray[np.float32], *, seed: int, index: int
) -> NDArray[np.float64]:
    """As `fit_linear`, on the first principal components of the training samples' voxels."""
    return _fit_and_predict(feature_SF, label_S, unit_S, test_SF, components=PCA_COMPONENTS, seed=seed, index=index)


def _fit_and_predict(
    feature_SF: NDArray[Any],
    label_S: Ints,
    unit_S: Ints,
    test_SF: NDArray[Any],
    *,
    components: int | None,
    seed: int,
    index: int,
) -> NDArray[np.float64]:
    feature_SF, test_SF = feature_SF.astype(np.float64), test_SF.astype(np.float64)  # L-BFGS stalls in float32
    strength = choose_strength(feature_SF, label_S, unit_S, components=components, seed=seed, index=index)
    scale = _scaler(components, feature_SF.shape).fit(feature_SF)
    model = _regression(strength).fit(scale.transform(feature_SF), label_S)
    return np.asarray(model.predict_proba(scale.transform(test_SF)), dtype=np.float64)


def choose_strength(
    feature_SF: NDArray[Any], label_S: Ints, unit_S: Ints, *, components: int | None, seed: int, index: int
) -> float:
    """The C with the least log loss over inner unit-disjoint folds.

    Where the training samples hold too few units to hold one out and still see every class, the middle of the grid is taken.
    """
    folds = min(INNER_FOLDS, len(np.unique(unit_S)))
    middle = STRENGTHS[len(STRENGTHS) // 2]
    if folds < 2:
        return middle
    fold_S = grouped_folds(label_S, unit_S, folds, seed=seed, index=index)
    if missing_class(label_S, fold_S) is not None:
        return middle
    classes = np.unique(label_S)
    losses = np.zeros(len(STRENGTHS))
    for fold in range(folds):
        train_S, held_S = fold_S != fold, fold_S == fold
        scale = _scaler(components, feature_SF[train_S].shape).fit(feature_SF[train_S])
        train_SF, held_SF = scale.transform(feature_SF[train_S]), scale.transform(feature_SF[held_S])
        for i, strength in enumerate(STRENGTHS):
            probability_SK = _regression(strength).fit(train_SF, label_S[train_S]).predict_proba(held_SF)
            losses[i] += log_loss(label_S[held_S], probability_SK, labels=classes, normalize=False)
    return STRENGTHS[int(np.argmin(losses))]


def _scaler(components: int | None, shape: tuple[int, ...]) -> Pipeline:
    """Standardise; with `components`, project onto that many principal components.

    They keep their variances: to whiten them would raise the weakest, which are noise, to the height of the anatomy.
    """
    if components is None:
        return make_pipeline(StandardScaler())
    return make_pipeline(StandardScaler(), PCA(min(components, *shape), svd_solver="full"))


def _regression(strength: float) -> LogisticRegression:
    return LogisticRegression(C=strength, max_iter=1000)
