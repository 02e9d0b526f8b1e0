"""`python -m mri_fm.evaluate`: does an encoder see a label, and with what certainty?

python -m mri_fm.evaluate --run RUN --corpus CORPUS --task adni_nc_vs_ad --out DIR
python -m mri_fm.evaluate --reproduce-paper --data-root D --run MAE_RUN JEPA_RUN --out DIR
deepspeed --module --num_gpus 8 mri_fm.evaluate --run RUN --corpus CORPUS --task … --out DIR   # embeds on 8 ranks
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from dataclasses import fields as dataclass_fields
from functools import partial
from pathlib import Path
from typing import Any

from mri_fm.engine.environment import read_environment, start_process_group
from mri_fm.errors import UserError, run_main
from mri_fm.evaluate.evaluation import REPORT_FILE, RESULT_FILE, Request, evaluate
from mri_fm.evaluate.finetune import Tuning
from mri_fm.evaluate.methods import PROBES, choose_probes
from mri_fm.evaluate.paper import PAPER_FILE, PROBE, paper_table, reproduce
from mri_fm.evaluate.report import text_table
from mri_fm.evaluate.spec import CovariateSpec, TaskSpec, label_task, load_task, task_names
from mri_fm.evaluate.viewer import MOST_VIEWED


@dataclass(frozen=True)
class Command:
    """What was asked: one run's tasks, or (`data_root`) the paper's table from several runs."""

    request: Request
    runs: tuple[Path, ...]
    data_root: Path | None = None


def parse(words: Sequence[str] | None = None) -> Command:
    """Read the command line.

    Raises:
        UserError: an unknown task or probe, options that do not go together, or a number out of range.
    """
    fields = vars(_parser().parse_args(words))
    fields.pop("local_rank")
    for name, least in {"folds": 2, "batch_size": 1, "refits": 1, "random_seeds": 3, "permutations": 0, "view": 0}.items():
        if fields[name] < least:
            raise UserError(f"--{name.replace('_', '-')} {fields[name]}: must be at least {least}")
    if fields["view"] > MOST_VIEWED:
        raise UserError(f"--view {fields['view']}: at most {MOST_VIEWED}, since each makes the page larger and takes time")
    runs, paper, data_root = tuple(fields.pop("run")), fields.pop("reproduce_paper"), fields.pop("data_root")
    tasks = _tasks(fields, paper)
    if paper and data_root is None:
        raise UserError("--reproduce-paper needs --data-root DIR, the folder of the data sets as they were downloaded")
    if not paper and (len(runs) > 1 or not fields["corpus"]):
        raise UserError("give one --run and its --corpus; only --reproduce-paper takes several runs and builds a corpus")
    fields["probes"] = choose_probes((*fields["probes"], PROBE) if paper else fields["probes"])
    fields["finetune"] = tuple(str(Tuning.parse(text)) for text in fields["finetune"])
    fields["size"] = tuple(fields["size"]) if fields["size"] else None
    return Command(Request(run=runs[0], tasks=tasks, **fields), runs, data_root if paper else None)


def _tasks(fields: dict[str, Any], paper: bool) -> dict[str, TaskSpec]:
    """The tasks that the options name; these options are taken out of `fields`."""
    names, label = fields.pop("task"), fields.pop("label")
    group, folds, contrasts, table = (fields.pop(name) for name in ("group", "folds", "contrasts", "table"))
    covariates = dict(map(_covariate, fields.pop("covariates")))
    if bool(names) + bool(label) + paper != 1:
        raise UserError(f"give --task NAME…, --label COLUMN or --reproduce-paper; tasks: {', '.join(task_names())}")
    tasks = dict(map(load_task, names)) if names else {label: label_task(label, group, folds, contrasts)} if label else {}
    for spec in tasks.values():
        spec.table = table or spec.table
        spec.covariates = replace(spec.covariates, **covariates)
    return tasks


def _covariate(words: str) -> tuple[str, str]:
    """`sex=gender`: the name of a covariate and the column where it stands."""
    name, _, column = words.partition("=")
    known = [field.name for field in dataclass_fields(CovariateSpec)]
    if name not in known or not column:
        raise UserError(f"--covariates {words}: give NAME=COLUMN, where NAME is one of {', '.join(known)}")
    return name, column


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m mri_fm.evaluate", description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, nargs="+", required=True, help="run folder of train.py")
    parser.add_argument("--corpus", default="", help="corpus of preprocessing.build_shards: folder or s3://bucket/prefix")
    parser.add_argument("--task", nargs="+", default=(), metavar="NAME", help="tasks that ship, or paths of .yaml files")
    parser.add_argument(
        "--label", help="in place of --task: manifest column with the classes; rows without a value are left out"
    )
    parser.add_argument("--out", type=Path, required=True, help=f"folder for {RESULT_FILE} and {REPORT_FILE}")
    parser.add_argument(
        "--group", "--unit", default="subject", help="with --label: column kept on one side of a split (%(default)s)"
    )
    parser.add_argument("--folds", type=int, default=5, help="with --label: group-disjoint folds (%(default)s)")
    parser.add_argument("--contrasts", nargs="+", default=(), metavar="NAME", help="with --label: these alone (default: all)")
    parser.add_argument("--reproduce-paper", action="store_true", help="the paper's table, from one run per objective")
    parser.add_argument("--data-root", type=Path, help="with --reproduce-paper: the data sets, published lists in splits/")
    parser.add_argument("--table", default="", help="CSV with further columns: key, or subject and session, and yours")
    parser.add_argument(
        "--covariates", nargs="+", default=(), metavar="NAME=COLUMN", help="where age, sex, site, scanner stand: sex=gender"
    )
    parser.add_argument("--splits", type=Path, help="folder of published lists subject_id,scan_uid")
    parser.add_argument("--probes", nargs="+", default=tuple(PROBES), metavar="NAME", help=f"of {', '.join(PROBES)} (all)")
    parser.add_argument("--finetune", nargs="+", default=(), metavar="MODE", help="also: full, partial:BLOCKS, lora")
    parser.add_argument("--refits", type=int, default=3, help="times that folds and probes are drawn again (%(default)s)")
    parser.add_argument("--random-seeds", type=int, default=3, help="encoders at random weights (%(default)s)")
    parser.add_argument("--permutations", type=int, default=100, help="of the labels, for the null (%(default)s)")
    parser.add_argument("--view", type=int, default=2, help="best and worst judged units, each, in the viewer (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of folds, probes and resamples (%(default)s)")
    parser.add_argument("--encoder", choices=("teacher", "student"), help="default: the one the objective keeps")
    parser.add_argument("--batch-size", type=int, default=4, help="volumes embedded at once (%(default)s)")
    for name, choices in {"plane": ("spacing", "shape"), "crop": ("centre", "whole")}.items():
        parser.add_argument(f"--{name}", choices=choices, help=f"data.evaluation.{name} (default: the run's)")
    parser.add_argument("--size", type=int, nargs=3, metavar="N", help="voxels along depth, height, width (default: the run's)")
    parser.add_argument(
        "--reader",
        choices=("shards", "archive"),
        default="shards",
        help="archive: volumes.zarr, where shards are absent",
    )
    parser.add_argument("--step", type=int, help="checkpoint to evaluate (default: the newest)")
    parser.add_argument("--cache", type=Path, help="folder of embeddings (default: features/ in the run folder)")
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # the deepspeed launcher adds it
    return parser


def main(words: Sequence[str] | None = None) -> None:
    """Evaluate and print the table."""
    command, environment = parse(words), read_environment()
    request, say = command.request, partial(print, flush=True)
    if environment.world > 1:
        start_process_group(environment)
    if command.data_root is not None:
        content = reproduce(request, command.runs, command.data_root, say=say, environment=environment)
        if content is not None:
            print(f"{paper_table(content)}\n{request.out / PAPER_FILE}")
        return
    result = evaluate(request, say=say, environment=environment)
    if result is not None:
        for found in result.get("tasks", {"": result}).values():
            print(text_table(found))
        print(f"{request.out / RESULT_FILE}\n{request.out / REPORT_FILE}")


if __name__ == "__main__":
    run_main(main)
