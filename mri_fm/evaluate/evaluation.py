"""Evaluations from a run folder and a corpus to result.json and report.html.

Axes: V volumes, S units.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from mri_fm.config import Config, DataConfig
from mri_fm.data.corpus import Corpus, Sample
from mri_fm.data.storage import same_place
from mri_fm.engine.environment import Environment
from mri_fm.engine.weights import LoadedObjective, load_objective
from mri_fm.errors import UserError
from mri_fm.evaluate.cache import Embedded, Kept, embed_cached
from mri_fm.evaluate.compare import (
    HEADLINE_METHOD,
    Comparison,
    Splitter,
    compare,
    null_distribution,
    out_of_fold,
    score_again,
)
from mri_fm.evaluate.confounders import audit, confounders, covariate_report, subgroups
from mri_fm.evaluate.embed import voxel_grid
from mri_fm.evaluate.examples import verdicts
from mri_fm.evaluate.learning_curve import learning_curve
from mri_fm.evaluate.methods import (
    HEADLINE,
    PROBES,
    RANDOM,
    TRAINED,
    VOXELS,
    Method,
    choose_probes,
    methods_of,
    random_name,
)
from mri_fm.evaluate.metrics import Scores
from mri_fm.evaluate.progress import progress
from mri_fm.evaluate.published import splits_of
from mri_fm.evaluate.report import Shown, render
from mri_fm.evaluate.results import figures_of
from mri_fm.evaluate.spec import TaskSpec
from mri_fm.evaluate.splits import Split
from mri_fm.evaluate.statistics import holm
from mri_fm.evaluate.target import Ints, Target
from mri_fm.evaluate.task import Task, resolve_task
from mri_fm.evaluate.viewer import Probed, Source, View, most_passes, view_units
from mri_fm.evaluate.volumes import Volumes
from mri_fm.models.vit import VisionTransformer
from mri_fm.objectives import Objective, objective_class

RESULT_FILE, REPORT_FILE, CACHE_DIR = "result.json", "report.html", "features"
SURVIVAL_PERMUTATIONS = 20  # lifelines is slow
ALONE = Environment(0, 1, 0, 1)
Say = Callable[[str], None]


@dataclass(frozen=True)
class Request:
    """What to evaluate; the command's arguments."""

    run: Path
    corpus: str  # folder or s3://bucket/prefix
    out: Path
    tasks: Mapping[str, TaskSpec]
    seed: int = 0
    encoder: str | None = None  # teacher, student; None: the one the objective keeps for downstream use
    batch_size: int = 4
    reader: str = "shards"  # shards, archive
    step: int | None = None  # of the checkpoint; None: the newest
    plane: str | None = None  # data.evaluation.plane and .crop; None: the run's
    crop: str | None = None
    size: tuple[int, ...] | None = None  # voxels along depth, height, width; None: the run's
    probes: tuple[str, ...] = tuple(PROBES)
    refits: int = 3
    random_seeds: int = 3
    permutations: int = 100
    finetune: tuple[str, ...] = ()  # full, partial:BLOCKS, lora
    splits: Path | None = None  # folder of published lists
    cache: Path | None = None  # of embeddings; None: features/ in the run folder
    view: int = 2  # units in the page's viewer: as many judged best, and as many worst


def evaluate(request: Request, say: Say = lambda line: None, environment: Environment = ALONE) -> dict[str, Any] | None:
    """Embed, probe, compare, and write `result.json` and `report.html` into `request.out`.

    Every rank of a job calls; each embeds its part of the volumes, and rank 0 does the rest.

    Returns:
        The content of result.json: that of the task, or with several {"tasks": {name: …}, "holm": …}. None on other ranks.

    Raises:
        UserError: a missing or damaged run or corpus, a task that the corpus cannot answer, too few groups, an encoder that
            gives no finite embedding.
    """
    _check_places(request)
    corpus = Corpus.open(request.corpus, "full", shards=request.reader == "shards")
    tasks = [resolve_task(name, spec, corpus.table) for name, spec in request.tasks.items()]
    splitters = [_splitter(task, corpus.table, request.splits) for task in tasks]
    for task, splitter in zip(tasks, splitters, strict=True):  # what is wrong is said before anything is embedded
        for refit in range(max(request.refits, request.random_seeds)):
            splitter(task.target, request.seed + refit)
        for reason in covariate_report(task).values() if environment.is_main else ():
            say(f"{task.name}: {reason}")
    loaded = load_objective(request.run, request.step)
    _check_size(request.size, loaded.config)
    name, encoders = _encoders(loaded, request)
    rows = sorted({int(row) for task in tasks for row in task.row_V})
    data = data_config(loaded.config.data, request)
    volumes = Volumes(corpus, [corpus.samples[row] for row in rows], data, request.batch_size)
    kept = Kept(tuple(sorted({PROBES[probe].readout for probe in request.probes})), bool(request.finetune))
    folder = request.cache or request.run / CACHE_DIR
    embedded = embed_cached(encoders, volumes, kept, folder=folder, environment=environment, say=say)
    if not environment.is_main:
        return None
    origin = {"encoder": name, "run": str(request.run), "objective": loaded.config.objective.name, "step": loaded.step}
    place = {row: i for i, row in enumerate(rows)}
    results, shown = {}, []
    for task, splitter in zip(tasks, splitters, strict=True):
        own = [place[row] for row in task.row_V.tolist()]
        part, of_task = _take(embedded, own), volumes.some(own)
        methods = _methods(task, part, of_task.samples, encoders, loaded.config, request)
        trial = Trial(task, methods, splitter, request.seed)
        comparison, figures = _one_task(trial, request, say)
        results[task.name] = _facts(request, task, loaded.config, of_task.samples) | origin | figures
        views = _views(trial, comparison, request.view, Source(encoders[TRAINED], of_task, environment), say)
        shown.append(Shown(task, part, comparison, results[task.name], views))
    return _write(request.out, results, shown)


def _methods(
    task: Task,
    embedded: Embedded,
    samples: Sequence[Sample],
    encoders: Mapping[str, VisionTransformer],
    config: Config,
    request: Request,
) -> dict[str, Method]:
    starts = {TRAINED: encoders[TRAINED], RANDOM: encoders[random_name(0)]}
    heads, tunings = config.model.heads, request.finetune
    return methods_of(task, embedded, samples, probes=request.probes, heads=heads, tunings=tunings, encoders=starts)


def _check_places(request: Request) -> None:
    choose_probes(request.probes)
    if not request.run.is_dir():
        raise UserError(f"--run {request.run}: no such folder; give the run.dir of a training run")
    if request.out.exists() and not request.out.is_dir():
        raise UserError(f"--out {request.out} is a file; give a folder")


def _check_size(size: tuple[int, ...] | None, config: Config) -> None:
    """An encoder is asked at sizes that it was trained at."""
    seen = [list(config.data.size), *(list(stage.size) for stage in config.data.curriculum)]
    if size is not None and list(size) not in seen:
        raise UserError(
            f"--size {' '.join(map(str, size))}: the encoder never saw this input size, but "
            f"{' and '.join(' '.join(map(str, one)) for one in seen)}; take one of these"
        )


def _splitter(task: Task, table: pa.Table, lists: Path | None) -> Splitter:
    """Draws the splits of a target that is the task's own or permuted."""

    def split(target: Target, seed: int) -> Sequence[Split]:
        return splits_of(dataclasses.replace(task, target=target), table, lists, seed=seed)

    return split


def _encoders(loaded: LoadedObjective, request: Request) -> tuple[str, dict[str, VisionTransformer]]:
    """The trained encoder, which it is, and as many at random weights as are asked for; the first is the run's own start."""
    name, trained = choose_encoder(loaded.objective, request.encoder)
    encoders = {TRAINED: trained}
    for seed in range(request.random_seeds):
        config = dataclasses.replace(loaded.config, seed=loaded.config.seed + seed)
        encoders[random_name(seed)] = choose_encoder(untrained(config), name)[1]
    return name, encoders


def _take(embedded: Embedded, rows: Sequence[int]) -> Embedded:
    """Some rows; all of them stay memory-mapped, since the tokens of a large data set do not fit into memory."""
    if list(rows) == list(range(len(embedded.inputs["voxels"]))):
        return embedded
    place = torch.tensor(rows, dtype=torch.int64)
    encoders = {name: {key: x[place] for key, x in found.items()} for name, found in embedded.encoders.items()}
    return Embedded(encoders, {key: x[place] for key, x in embedded.inputs.items()})


@dataclass(frozen=True, eq=False)
class Trial:
    """A task with the methods that answer it and the splits that they meet."""

    task: Task
    methods: Mapping[str, Method]
    splitter: Splitter
    seed: int

    @property
    def headline(self) -> Method:
        """The method that was chosen beforehand."""
        return self.methods[HEADLINE_METHOD]

    def splits(self) -> Sequence[Split]:
        """Those of the first refit."""
        return self.splitter(self.task.target, self.seed)


def _one_task(trial: Trial, request: Request, say: Say) -> tuple[Comparison, dict[str, Any]]:
    """Scores and figures of one task."""
    task, splitter = trial.task, trial.splitter
    comparison = compare(task, trial.methods, splitter, refits=request.refits, seed=trial.seed, say=say)
    permutations = min(request.permutations, SURVIVAL_PERMUTATIONS if task.target.kind == "survival" else request.permutations)
    say(f"{task.name}: {permutations} permutations of the labels")
    null = null_distribution(task, trial.headline, splitter, permutations=permutations, seed=trial.seed)
    say(f"{task.name}: confounders, subgroups, learning curve")
    return comparison, figures_of(task, comparison, null) | _further(trial, comparison)


def _further(trial: Trial, comparison: Comparison) -> dict[str, Any]:
    """What else is asked of the headline probe: is it honest, what does it rest on, for whom, and from how many labels?"""
    task, seed, splits = trial.task, trial.seed, trial.splits()
    features = trial.headline.of_refit(0)

    def first_part(target: Target) -> tuple[Ints, Scores]:
        return out_of_fold(features, target, task.group_S, splits[:1], trial.headline.fit, seed=seed)

    audit(first_part, task.target, splits[:1], seed=seed)
    curves = {name: trial.methods[name] for name in (HEADLINE_METHOD, f"{HEADLINE}/{RANDOM}", VOXELS)}
    curve = (
        []
        if task.target.kind == "survival"
        else learning_curve(task, curves, lambda drawn: trial.splitter(task.target, drawn), seed=seed)
    )
    return {
        "audit": "test labels shuffled: no score of the test part moved",
        "covariates": dict(covariate_report(task)),
        "confounders": confounders(task, features, splits, seed=seed),
        "subgroups": subgroups(task, comparison.scores[HEADLINE_METHOD], comparison.tested_T, seed=seed),
        "learning_curve": curve,
    }


def _views(trial: Trial, comparison: Comparison, count: int, source: Source, say: Say) -> list[View]:
    """What the page's viewer shows of `count` units judged best and as many judged worst."""
    chosen = verdicts(trial.task, comparison, count)
    score = partial(score_again, trial.task, trial.headline, trial.splits(), trial.seed)
    probed = Probed(trial.task, trial.headline.of_refit(0), PROBES[HEADLINE].readout, score)
    if chosen:
        passes = most_passes(source.encoder.grid, len(chosen))
        say(f"{trial.task.name}: viewer of {len(chosen)} units: at most {passes:,} covered volumes to encode (--view 0: none)")
    return list(progress(view_units(chosen, probed, source), "viewer", len(chosen), unit="unit"))


def _write(out: Path, results: Mapping[str, dict[str, Any]], shown: Sequence[Shown]) -> dict[str, Any]:
    """Both files; p-values are corrected over the tasks."""
    adjusted = holm({name: result["label_permutation"].get("p", 1.0) for name, result in results.items()})
    for name, value in adjusted.items():
        results[name]["label_permutation"]["p_holm"] = value
    content = next(iter(results.values())) if len(results) == 1 else {"tasks": dict(results), "holm": adjusted}
    out.mkdir(parents=True, exist_ok=True)
    (out / REPORT_FILE).write_text(render(shown), encoding="utf-8")
    (out / RESULT_FILE).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return content


def data_config(trained: DataConfig, request: Request) -> DataConfig:
    """The run's, but for what the request says."""
    given = {name: getattr(request, name) for name in ("plane", "crop") if getattr(request, name) is not None}
    evaluation = dataclasses.replace(trained.evaluation, **given)
    size = trained.size if request.size is None else list(request.size)
    return dataclasses.replace(trained, corpus=request.corpus, reader=request.reader, evaluation=evaluation, size=size)


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
    """The objective as a run of this configuration initialises it, before its first step."""
    depth, height, width = config.data.size
    return objective_class(config.objective.name)(config.objective, config.model, (depth, height, width), config.seed).eval()


def _facts(request: Request, task: Task, config: Config, samples: Sequence[Sample]) -> dict[str, Any]:
    """What was evaluated and how, for result.json."""
    data = data_config(config.data, request)
    same_corpus = same_place(config.data.corpus, request.corpus)
    trained_on = [s for s in samples if s.split == "train" and s.contrast in (config.data.contrasts or [s.contrast])]
    label_S = task.target.labels
    return {
        "task": task.name,
        "title": task.spec.title or task.name,
        "kind": task.spec.kind,
        "label": task.spec.label,
        "unit": task.spec.unit,
        "group": task.spec.group,
        "fusion": task.spec.fusion,
        "classes": list(task.classes),
        "class_counts": {name: int((label_S == number).sum()) for number, name in enumerate(task.classes)},
        "contrasts": list(task.contrasts),
        "n_volumes": len(samples),
        "n_units": len(task.target),
        "n_groups": task.groups,
        "n_missing_label": task.missing,
        "n_seen_in_pretraining": len(trained_on) if same_corpus else None,
        "caption": task.caption,
        "seed": request.seed,
        "folds": task.spec.split.folds,
        "split": split_name(task.spec, request.splits),
        "size": list(data.size),
        "input": dataclasses.asdict(data.evaluation),
        "voxel_grid": list(voxel_grid(data.size)),
    }


def split_name(spec: TaskSpec, lists: Path | None) -> str:
    """How a task is split, in words."""
    if lists is not None and spec.split.files:
        return f"published lists {spec.split.files}"
    return f"column {spec.split.column}" if spec.split.by == "column" else f"{spec.split.folds} folds drawn here"
