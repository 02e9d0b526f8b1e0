"""`--reproduce-paper`: the paper's tasks on the paper's objectives, as far as data and runs are there.

Every run is evaluated as by itself, into a folder of its objective; the table is put together from their result.json.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mri_fm.config import config_from_yaml
from mri_fm.data.corpus import Corpus
from mri_fm.engine.environment import Environment, on_rank_0
from mri_fm.errors import UserError
from mri_fm.evaluate.evaluation import ALONE, Request, Say, evaluate
from mri_fm.evaluate.metrics import NAMES
from mri_fm.evaluate.published import splits_of
from mri_fm.evaluate.spec import TaskSpec, load_task
from mri_fm.evaluate.task import resolve_task

TASKS = ("adni_nc_vs_ad", "adni_nc_vs_mci", "nacc_nc_vs_ad", "nacc_nc_vs_mci", "ucsf_pdgm_grade", "abide_autism")
OBJECTIVES = ("mae", "mae_spectral", "jepa", "jepa_vcr")
METRICS = ("auroc", "accuracy", "f1")
PROBE = "attentive"  # the paper's
PAPER_FILE, SPLITS_DIR, CORPUS_DIR = "paper.json", "splits", "corpus"


def reproduce(
    request: Request, runs: Sequence[Path], data_root: Path, *, say: Say, environment: Environment = ALONE
) -> dict[str, Any] | None:
    """Evaluate all of the paper's tasks that the data allow, with every run.

    Args:
        request: whose `run` and `tasks` are filled in here; an empty `corpus` is built from `data_root` into `out`.
        runs: run folders, one for each objective.
        data_root: the data sets as they were downloaded; its folder `splits/`, if any, has the published lists.
        say: told what is done.
        environment: this rank's place.

    Returns:
        The content of paper.json: {"results": {objective: {task: result}}, "missing": {task or objective: reason}}. None on
        other ranks than 0.

    Raises:
        UserError: no such folder, two runs of one objective, or not one of the tasks has its data.
    """
    objectives = {run: str(config_from_yaml(run / "config.yaml").objective.name) for run in runs}
    if len(set(objectives.values())) < len(runs):
        raise UserError(f"--run: two of these have the same objective ({', '.join(objectives.values())}); give one of each")
    request = replace(request, corpus=request.corpus or _build(data_root, request.out / CORPUS_DIR, say, environment))
    lists = request.splits or (data_root / SPLITS_DIR if (data_root / SPLITS_DIR).is_dir() else None)
    tasks, missing = _present(request.corpus, lists, request.seed)
    missing |= {name: "no run of this objective was given" for name in OBJECTIVES if name not in objectives.values()}
    results = {}
    for run, objective in objectives.items():
        one = replace(request, run=run, tasks=tasks, splits=lists, out=request.out / objective)
        found = evaluate(one, say, environment)
        if found is not None:
            results[objective] = found.get("tasks", {next(iter(tasks)): found})
    if not environment.is_main:
        return None
    content = {"results": results, "missing": missing}
    (request.out / PAPER_FILE).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return content


def _build(data_root: Path, out: Path, say: Say, environment: Environment) -> str:
    """The corpus of the data below a folder, built or brought up to date by rank 0."""
    if not data_root.is_dir():
        raise UserError(f"--data-root {data_root}: no such folder")

    def build() -> str:
        say(f"building {out} from {data_root}")
        command = [sys.executable, "-m", "preprocessing.build_shards", "--raw", data_root, "--out", out, "--val-fraction", "0"]
        if subprocess.run(list(map(str, command)), check=False).returncode:
            raise UserError(f"`{' '.join(['python', *map(str, command[1:])])}` failed; its message stands above")
        return str(out)

    return build() if environment.world == 1 else on_rank_0(environment, build)


def _present(corpus: str, lists: Path | None, seed: int) -> tuple[dict[str, TaskSpec], dict[str, str]]:
    """The tasks that the corpus can answer, and why it cannot answer the others."""
    table = Corpus.open(corpus, "manifest").table
    tasks, missing = {}, {}
    for name in TASKS:
        _, spec = load_task(name)
        try:
            splits_of(resolve_task(name, spec, table), table, lists, seed=seed)
            tasks[name] = spec
        except UserError as error:
            missing[name] = str(error)
    if not tasks:
        raise UserError(f"none of the paper's tasks can be done with {corpus}: {missing[TASKS[0]]}; …")
    return tasks, missing


def paper_table(content: Mapping[str, Any]) -> str:
    """Tasks × metrics against objectives, each with its interval, and below it what is missing and why."""
    lines = ["task                        metric    " + "".join(f"{name:>24}" for name in OBJECTIVES)]
    for name in TASKS:
        title = load_task(name)[1].title
        for row, metric in enumerate(METRICS):
            cells = [_cell(content["results"].get(objective, {}).get(name), metric) for objective in OBJECTIVES]
            lines.append(f"{title if row == 0 else '':<28}{NAMES[metric]:<10}" + "".join(f"{cell:>24}" for cell in cells))
    lines += [f"missing: {name}: {reason}" for name, reason in content["missing"].items()]
    return "\n".join(lines)


def _cell(result: Mapping[str, Any] | None, metric: str) -> str:
    if result is None:
        return "—"
    found = result["methods"][f"{PROBE}/trained"][metric]
    low, high = found["interval"]
    return f"{found['value']:.3f} [{low:.3f}, {high:.3f}]"
