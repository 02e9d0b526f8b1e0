"""Online probes: what simple classifiers read from the frozen encoder's features while it is being trained.

They say whether features become more useful, which the loss does not; `mri_fm.evaluate` measures how useful they are.

Axes: S labelled volumes, D width, K classes, F folds.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import RidgeClassifierCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from mri_fm.config import Config
from mri_fm.data.corpus import Corpus, Sample
from mri_fm.engine.environment import Environment
from mri_fm.errors import UserError, nearest
from mri_fm.evaluate.metrics import auroc
from mri_fm.evaluate.splits import grouped_folds
from mri_fm.objectives import Objective
from mri_fm.observe.fixed import FixedBatch

FOLDS = 5
MOST_CLASSES = 20
_STRENGTHS = np.logspace(-2, 4, 7)
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class OnlineProbe:
    """A linear and a kNN probe of the encoder's mean-pooled tokens, on volumes that are read once and kept."""

    def __init__(self, objective: Objective, corpus: Corpus, config: Config, environment: Environment) -> None:
        """Choose the labelled volumes, whatever their split; nothing is read yet.

        Raises:
            UserError: `observe.probe.label` or `observe.probe.unit` is no column to probe, or too few units for two folds.
        """
        self._objective, self._config, self._environment = objective, config, environment
        probe = config.observe.probe
        labels, units = (column_values(corpus, key, getattr(probe, key)) for key in ("label", "unit"))
        samples = [s for s in corpus.samples if s.contrast in (config.data.contrasts or [s.contrast])]
        chosen = choose_labelled(samples, [labels[sample.row] for sample in samples], probe.samples)
        self._label_of, self._unit_of = ({s.key: str(column[s.row]) for s in chosen} for column in (labels, units))
        self._require_folds(probe.label, [sample.key for sample in chosen])
        self._fixed = FixedBatch(corpus, chosen, config.data, environment)

    def _require_folds(self, label: str, keys: list[str]) -> None:
        label_S, unit_S = self._numbers(keys)
        if len(set(label_S)) < 2:
            raise UserError(
                f"observe.probe.label={label}: all {len(keys)} labelled volumes are of one class; a probe needs two"
            )
        if len(set(unit_S)) < 2 or lacks_class(label_S, probe_folds(label_S, unit_S, self._config.seed)):
            raise UserError(
                f"observe.probe.label={label}: {len(keys)} volumes hold too few units of a class to learn and test it; "
                "raise observe.probe.samples or choose another label or observe.probe.unit"
            )

    def _numbers(self, keys: list[str]) -> tuple[Ints, Ints]:
        """Class and unit of each volume."""
        label_S, unit_S = (np.unique([of[k] for k in keys], return_inverse=True)[1] for of in (self._label_of, self._unit_of))
        return label_S.astype(np.int64), unit_S.astype(np.int64)

    @torch.no_grad()
    def probe(self) -> dict[str, float]:
        """Cross-validated AUROC of both probes, "probe/linear_auroc" and "probe/knn_auroc"; called by all ranks, known to
        the first.

        Folds are disjoint by unit and the same at each call.
        """
        encoder = self._objective.encoder()
        pooled = [encoder(batch.x_BCZYX, spacing_B3=batch.spacing_B3).float().mean(dim=1) for batch in self._fixed.batches()]
        feature_SD = self._fixed.gather(torch.cat(pooled))
        if not self._environment.is_main:
            return {}
        label_S, unit_S = self._numbers([sample.key for sample in self._fixed.samples])
        return cross_validate(feature_SD.cpu().double().numpy(), label_S, unit_S, self._config)


def column_values(corpus: Corpus, key: str, name: str) -> list[Any]:
    """A column of the manifest.

    Raises:
        UserError: there is none, or it has too many distinct numbers to be classes.
    """
    if name not in corpus.table.column_names:
        known = corpus.table.column_names
        raise UserError(
            f"observe.probe.{key}={name}: {corpus.root} has no such column{nearest(name, known)}; it has {', '.join(known)}"
        )
    values = corpus.table.column(name).to_pylist()
    distinct = {value for value in values if not is_missing(value)}
    if key == "label" and len(distinct) > MOST_CLASSES:
        raise UserError(
            f"observe.probe.label={name} has {len(distinct)} distinct values; take one of at most {MOST_CLASSES} classes"
        )
    return list(values)


def is_missing(value: Any) -> bool:
    """Whether a volume has no label."""
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def choose_labelled(samples: Sequence[Sample], labels: Sequence[Any], count: int) -> list[Sample]:
    """Volumes of every class in turn until there are `count`, in the order of the manifest."""
    by_class: dict[str, list[Sample]] = defaultdict(list)
    for sample, label in zip(samples, labels, strict=True):
        if not is_missing(label):
            by_class[str(label)].append(sample)
    turns = [sample for turn in zip_longest(*by_class.values()) for sample in turn if sample is not None]
    return sorted(turns[:count], key=lambda sample: sample.row)


def probe_folds(label_S: Ints, unit_S: Ints, seed: int) -> Ints:
    """The fold that tests each volume."""
    return grouped_folds(label_S, unit_S, min(FOLDS, len(np.unique(unit_S))), seed=seed)


def lacks_class(label_S: Ints, fold_S: Ints) -> bool:
    """Whether some fold's training part has not all classes."""
    return any(len(np.setdiff1d(label_S, label_S[fold_S != fold])) for fold in np.unique(fold_S))


def cross_validate(feature_SD: Floats, label_S: Ints, unit_S: Ints, config: Config) -> dict[str, float]:
    """AUROC (macro over classes) of each probe's scores for volumes that it was not fitted on.

    The linear one is ridge regression onto the classes with its strength chosen by leave-one-out on the training part,
    which costs one singular value decomposition; the other has the share of the nearest neighbours by cosine.
    """
    fold_S = probe_folds(label_S, unit_S, config.seed)
    scores = {name: np.zeros((len(label_S), int(label_S.max()) + 1)) for name in ("linear", "knn")}
    for fold in np.unique(fold_S):
        train_S, test_S = fold_S != fold, fold_S == fold
        neighbours = min(config.observe.probe.neighbours, int(train_S.sum()))
        scale = StandardScaler().fit(feature_SD[train_S])
        train_ND, test_ND = scale.transform(feature_SD[train_S]), scale.transform(feature_SD[test_S])
        ridge = RidgeClassifierCV(alphas=_STRENGTHS).fit(train_ND, label_S[train_S])
        neighbour = KNeighborsClassifier(neighbours, metric="cosine").fit(train_ND, label_S[train_S])
        scores["linear"][test_S] = _as_columns(ridge.decision_function(test_ND))
        scores["knn"][test_S] = neighbour.predict_proba(test_ND)
    return {f"probe/{name}_auroc": float(auroc(label_S, score_SK)[0]) for name, score_SK in scores.items()}


def _as_columns(score: Floats) -> Floats:
    """Two classes have one score, that of the second."""
    return np.stack([-score, score], axis=1) if score.ndim == 1 else score
