"""One evaluation from a run folder and a corpus to result.json and report.html.

Axes: S samples (volumes).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mri_fm.config import Config, DataConfig
from mri_fm.data.corpus import Corpus, Sample
from mri_fm.data.loader import evaluation_batches
from mri_fm.data.storage import same_place
from mri_fm.engine.weights import load_objective
from mri_fm.errors import UserError
from mri_fm.evaluate.compare import RANDOM, TRAINED, compare
from mri_fm.evaluate.embed import embed, voxel_grid
from mri_fm.evaluate.report import render
from mri_fm.evaluate.task import Task, read_task
from mri_fm.models.vit import VisionTransformer
from mri_fm.objectives import Objective, objective_class

RESULT_FILE, REPORT_FILE = "result.json", "report.html"


@dataclass(frozen=True)
class Request:
    """What to evaluate; the command's arguments."""

    run: Path
    corpus: str  # folder or s3://bucket/prefix
    label: str
    out: Path
    unit: str = "subject"
    folds: int = 5
    seed: int = 0
    encoder: str | None = None  # teacher, student; None: the one the objective keeps for downstream use
    batch_size: int = 4
    contrasts: tuple[str, ...] = ()  # evaluate these alone; empty: all
    reader: str = "shards"  # shards, archive
    step: int | None = None  # of the checkpoint; None: the newest
    plane: str | None = None  # data.evaluation.plane and .crop; None: the run's
    crop: str | None = None


def evaluate(request: Request, say: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """Embed, probe, compare, and write `result.json` and `report.html` into `request.out`.

    Returns:
        The content of result.json.

    Raises:
        UserError: a missing or damaged run or corpus, a label, unit or contrast that will not do, too few units, an
            encoder that gives no finite embedding.
    """
    if not request.run.is_dir():
        raise UserError(f"--run {request.run}: no such folder; give the run.dir of a training run")
    if request.out.exists() and not request.out.is_dir():
        raise UserError(f"--out {request.out} is a file; give a folder")
    corpus = Corpus.open(request.corpus, "full", shards=request.reader == "shards")
    task = read_task(corpus.table, request.label, request.unit, request.contrasts)
    task.require_folds(request.folds)
    loaded = load_objective(request.run, request.step)
    name, trained = choose_encoder(loaded.objective, request.encoder)
    encoders = {TRAINED: trained, RANDOM: choose_encoder(untrained(loaded.config), name)[1]}
    samples = [corpus.samples[row] for row in task.row_S]
    say(f"embedding {len(samples)} volumes with the {name} of step {loaded.step}")
    keys = [sample.key for sample in samples]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    data = data_config(loaded.config.data, request)
    batches = evaluation_batches(corpus, samples, data, batch_size=request.batch_size, device=device)
    embedded = embed(encoders, batches, keys, device)
    say(f"fitting probes on {request.folds} folds")
    comparison = compare(task, embedded, folds=request.folds, heads=loaded.config.model.heads, seed=request.seed)
    origin = {"encoder": name, "run": str(request.run), "objective": loaded.config.objective.name, "step": loaded.step}
    result = _facts(request, task, loaded.config, samples) | comparison.figures | origin
    request.out.mkdir(parents=True, exist_ok=True)
    (request.out / REPORT_FILE).write_text(render(result, task, embedded, comparison, keys), encoding="utf-8")
    (request.out / RESULT_FILE).write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return result


def data_config(trained: DataConfig, request: Request) -> DataConfig:
    """The run's, but for what the request says."""
    given = {name: getattr(request, name) for name in ("plane", "crop") if getattr(request, name) is not None}
    evaluation = dataclasses.replace(trained.evaluation, **given)
    return dataclasses.replace(trained, corpus=request.corpus, reader=request.reader, evaluation=evaluation)


def choose_encoder(objective: Objective, name: str | None) -> tuple[str, VisionTransformer]:
    """The encoder called `name` ("teacher", "student"), by default the objective's own choice, and its name.

    Raises:
        UserError: a teacher is asked of an objective that has none.
    """
    kept = objective.encoder()
    if name is None:
        return ("student" if kept is objective.student else "teacher"), kept
    if name == "student":
        return name, objective.student
    if kept is objective.student:
        raise UserError(f"objective {objective.config.name} has no teacher; leave --encoder out or take --encoder student")
    return name, kept


def untrained(config: Config) -> Objective:
    """The objective as the run initialised it, before its first step."""
    depth, height, width = config.data.size
    return objective_class(config.objective.name)(config.objective, config.model, (depth, height, width), config.seed).eval()


def _facts(request: Request, task: Task, config: Config, samples: list[Sample]) -> dict[str, Any]:
    """What was evaluated and how, for result.json."""
    same_corpus = same_place(config.data.corpus, request.corpus)
    trained_on = [s for s in samples if s.split == "train" and s.contrast in (config.data.contrasts or [s.contrast])]
    return {
        "label": task.label,
        "unit": task.unit,
        "classes": list(task.classes),
        "class_counts": {name: int((task.label_S == number).sum()) for number, name in enumerate(task.classes)},
        "contrasts": list(task.contrasts),
        "n_volumes": len(samples),
        "n_units": task.units,
        "n_missing_label": task.missing,
        "n_seen_in_pretraining": len(trained_on) if same_corpus else None,
        "caption": task.caption,
        "seed": request.seed,
        "folds": request.folds,
        "size": list(config.data.size),
        "input": dataclasses.asdict(data_config(config.data, request).evaluation),
        "voxel_grid": list(voxel_grid(config.data.size)),
    }
