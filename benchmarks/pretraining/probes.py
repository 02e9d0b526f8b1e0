"""Frozen linear probes of a run before its first step and at each checkpoint, by the code of `mri_fm.evaluate`.

Axes: S units (volumes), D width, K classes, R bootstrap resamples.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from mri_fm.config import config_from_yaml
from mri_fm.data.corpus import Corpus
from mri_fm.data.loader import evaluation_batches
from mri_fm.engine.weights import load_objective
from mri_fm.evaluate.compare import out_of_fold
from mri_fm.evaluate.embed import embed
from mri_fm.evaluate.evaluation import untrained
from mri_fm.evaluate.features import Features
from mri_fm.evaluate.linear import fit_linear
from mri_fm.evaluate.metrics import auroc
from mri_fm.evaluate.spec import label_task
from mri_fm.evaluate.splits import cross_validation
from mri_fm.evaluate.statistics import bootstrap
from mri_fm.evaluate.task import Task, resolve_task
from mri_fm.models.vit import VisionTransformer
from pretraining.runs import Bench, Run

GROUP, FOLDS, DIVISIONS, SHUFFLES = "subject", 5, 5, 60
Scores = dict[int, dict[str, list[list[float]]]]
"""Probability of the second class by step and label: one row of S values for each division into folds."""


def probe_curve(bench: Bench, run: Run, labels: Sequence[str]) -> Scores:
    """Out-of-fold scores at step 0 and at every checkpoint; what the run's folder holds already is not computed again."""
    file = bench.folder(run) / "probes.json"
    known: Scores = {int(step): scores for step, scores in _read(file).items()}
    for step in [0, *bench.checkpoint_steps]:
        if not set(labels) <= set(known.get(step, {})):
            known[step] = _scores(bench, run, step, labels)
            file.write_text(json.dumps(known))
    return known


def _read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text()) if file.is_file() else {}


@threadpool_limits.wrap(limits=1)
def _scores(bench: Bench, run: Run, step: int, labels: Sequence[str]) -> dict[str, list[list[float]]]:
    corpus = Corpus.open(bench.corpus, "size")
    feature_SD = _features(corpus, bench.folder(run), step)
    return {label: _out_of_fold(feature_SD, read_task(corpus, label)) for label in labels}


def read_task(corpus: Corpus, label: str) -> Task:
    """The labelled volumes of a corpus."""
    return resolve_task(label, label_task(label, GROUP, FOLDS, ()), corpus.table)


def _features(corpus: Corpus, folder: Path, step: int) -> np.ndarray:
    """Mean-pooled tokens of every volume of the corpus, in its order."""
    config = config_from_yaml(folder / "config.yaml")
    encoder: VisionTransformer = (load_objective(folder, step).objective if step else untrained(config)).encoder()
    cpu = torch.device("cpu")
    batches = evaluation_batches(corpus, corpus.samples, config.data, batch_size=8, device=cpu)
    rows = list(embed({"encoder": encoder}, batches, [sample.key for sample in corpus.samples], cpu, readouts=["pooled"]))
    order = np.argsort(np.concatenate([positions for positions, _ in rows]))
    return torch.cat([part["encoder/pooled"] for _, part in rows]).numpy()[order]


def _out_of_fold(feature_SD: np.ndarray, task: Task, divisions: int = DIVISIONS) -> list[list[float]]:
    rows = []
    for division in range(divisions):
        splits = cross_validation(task.target, task.group_S, FOLDS, seed=division)
        features = Features.plain(feature_SD[task.row_V])
        _, scores = out_of_fold(features, task.target, task.group_S, splits, fit_linear, seed=division)
        rows.append(np.round(scores.score_SK[:, 1], 6).tolist())
    return rows


def task_of(bench: Bench, label: str) -> Task:
    """The labelled volumes of the corpus."""
    return read_task(Corpus.open(bench.corpus, "size"), label)


def mean_auroc(task: Task, rows: Mapping[str, Sequence[Sequence[float]]]) -> dict[str, tuple[float, np.ndarray]]:
    """AUROC of each name, mean over its rows (seeds, divisions), and the same on resamples of subjects, (R,).

    All names and rows meet the same resamples, so that differences are paired.
    """
    scores = {(name, i): _columns(row) for name, given in rows.items() for i, row in enumerate(given)}
    flat = {f"{name}#{i}": partial(auroc, task.target.labels, score_SK) for (name, i), score_SK in scores.items()}
    resampled = bootstrap({key: [method] for key, method in flat.items()}, task.group_S, seed=0)
    result = {}
    for name, given in rows.items():
        keys = [f"{name}#{i}" for i in range(len(given))]
        point = float(np.mean([flat[key](None)[0] for key in keys]))
        result[name] = (point, np.mean([resampled[key] for key in keys], axis=0))
    return result


@threadpool_limits.wrap(limits=1)
def shuffled_auroc(bench: Bench, run: Run, label: str) -> list[float]:
    """AUROC at the last step with labels shuffled over people, one division each time: what no signal looks like here."""
    file = bench.folder(run) / f"shuffled-{label}.json"
    if not file.is_file():
        corpus = Corpus.open(bench.corpus, "size")
        feature_SD, task = _features(corpus, bench.folder(run), bench.steps), read_task(corpus, label)
        rng = np.random.default_rng(0)
        tasks = [replace(task, target=task.target[rng.permutation(len(task.target))]) for _ in range(SHUFFLES)]
        rows = [_columns(_out_of_fold(feature_SD, shuffled, divisions=1)[0]) for shuffled in tasks]
        file.write_text(json.dumps([float(auroc(t.target.labels, row)[0]) for t, row in zip(tasks, rows, strict=True)]))
    return list(json.loads(file.read_text()))


def _columns(row: Sequence[float]) -> np.ndarray:
    score_S = np.array(row)
    return np.stack([1 - score_S, score_S], axis=1)
