"""Online probes: what simple classifiers read from the frozen encoder's features while it is being trained.

They say whether features become more useful, which the loss does not; `mri_fm.evaluate` measures how useful they are.

Axes: S labelled volumes, D width, K classes, F folds.
"""

from __future__ import annotations

from itertools import zip_longest

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import RidgeClassifierCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from mri_fm.config import Config
from mri_fm.data.corpus import Corpus, Sample
from mri_fm.engine.environment import Environment
from mri_fm.errors import UserError
from mri_fm.evaluate.splits import Ints, grouped_folds, missing_class
from mri_fm.evaluate.statistics import auroc
from mri_fm.evaluate.task import Task, read_task
from mri_fm.objectives import Objective
from mri_fm.observe.fixed import FixedBatch

FOLDS = 5
_STRENGTHS = np.logspace(-2, 4, 7)
Floats = NDArray[np.float64]


class OnlineProbe:
    """A linear and a kNN probe of the encoder's mean-pooled tokens, on volumes that are read once and kept."""

    def __init__(self, objective: Objective, corpus: Corpus, config: Config, environment: Environment) -> None:
        """Choose the labelled volumes, whatever their split; nothing is read yet.

        Raises:
            UserError: `observe.probe.label` or `observe.probe.unit` is no column to probe, or too few units for two folds.
        """
        self._objective, self._config, self._environment = objective, config, environment
        probe = config.observe.probe
        try:
            task = read_task(corpus.table, probe.label, probe.unit, config.data.contrasts)
        except UserError as error:
            said = str(error).replace("--label", "observe.probe.label").replace("--unit", "observe.probe.unit")
            raise UserError(said) from error
        chosen = choose_labelled(task, corpus.samples, probe.samples)
        rows = {int(row): number for number, row in enumerate(task.row_S)}
        self._label_of = {sample.key: int(task.label_S[rows[sample.row]]) for sample in chosen}
        self._unit_of = {sample.key: int(task.unit_S[rows[sample.row]]) for sample in chosen}
        self._require_folds(task)
        self._fixed = FixedBatch(corpus, chosen, config.data, environment)

    def _require_folds(self, task: Task) -> None:
        keys = list(self._label_of)
        label_S, unit_S = (np.array([of[key] for key in keys]) for of in (self._label_of, self._unit_of))
        if missing_class(label_S, probe_folds(label_S, unit_S, self._config.seed)) is not None:
            raise UserError(
                f"observe.probe.label={task.label}: {len(keys)} volumes hold too few of a class to learn and test it; "
                "raise observe.probe.samples or choose another label"
            )

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
        keys = [sample.key for sample in self._fixed.samples]
        label_S, unit_S = (np.array([of[key] for key in keys]) for of in (self._label_of, self._unit_of))
        return cross_validate(feature_SD.cpu().double().numpy(), label_S, unit_S, self._config)


def choose_labelled(task: Task, samples: list[Sample], count: int) -> list[Sample]:
    """Volumes of every class in turn until there are `count`, in the order of the manifest."""
    by_class = [task.row_S[task.label_S == number].tolist() for number in range(len(task.classes))]
    turns = [row for turn in zip_longest(*by_class) for row in turn if row is not None]
    return [samples[row] for row in sorted(turns[:count])]


def probe_folds(label_S: Ints, unit_S: Ints, seed: int) -> Ints:
    """The fold that tests each volume."""
    return grouped_folds(label_S, unit_S, min(FOLDS, len(np.unique(unit_S))), seed=seed)


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
        nearest = KNeighborsClassifier(neighbours, metric="cosine").fit(train_ND, label_S[train_S])
        scores["linear"][test_S] = _as_columns(ridge.decision_function(test_ND))
        scores["knn"][test_S] = nearest.predict_proba(test_ND)
    return {f"probe/{name}_auroc": float(auroc(label_S, score_SK)[0]) for name, score_SK in scores.items()}


def _as_columns(score: Floats) -> Floats:
    """Two classes have one score, that of the second."""
    return np.stack([-score, score], axis=1) if score.ndim == 1 else score
