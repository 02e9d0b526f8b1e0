"""A task as a YAML file: which volumes, which label, how units are scored and split, by what they are judged.

`--task NAME` is a file of `presets/task/` or the path of one of your own; `docs/evaluation.md` explains the keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from mri_fm.errors import UserError, nearest
from mri_fm.merging import PRESETS, merge

KINDS = ("classification", "regression", "survival")
UNITS = ("volume", "session", "subject")
FUSIONS = ("mean", "concatenation", "product")
METRICS = {
    "classification": ("auroc", "auprc", "balanced_accuracy", "accuracy", "f1"),
    "regression": ("r2", "mae", "pearson"),
    "survival": ("c_index",),
}
FREE_KEYS = ("classes.", "exclude.", "keep.")  # what follows is the user's


@dataclass
class SplitSpec:
    """How units are divided into training, validation and test.

    Raises:
        UserError: fewer than two folds, or an unknown rule.
    """

    by: str = "folds"  # folds (drawn here, stratified), column (train, val, test in the manifest), files (published lists)
    folds: int = 5
    column: str = "split"
    files: str = ""  # name of a list with columns subject_id,scan_uid; {part} is train, val or test, {fold} a number

    def __post_init__(self) -> None:
        """Check what types cannot."""
        if self.by not in ("folds", "column", "files"):
            raise UserError(f"split.by={self.by} is not one of folds, column, files")
        if self.folds < 2:
            raise UserError(f"split.folds={self.folds}: at least 2 are needed to learn on one part and test on another")
        if self.by == "files" and "{part}" not in self.files:
            raise UserError("split.by=files needs split.files with {part} in it, for instance abide_down{part}_ids.csv")


@dataclass
class CovariateSpec:
    """Columns that describe a person or a scan: for subgroups, confounders and the nuisance baseline; absent ones are said."""

    age: str = "age"  # years
    sex: str = "sex"
    site: str = "site"
    scanner: str = "scanner"


@dataclass
class TaskSpec:
    """The schema of a task's YAML file.

    Raises:
        UserError: a value that is none of those allowed, or one that contradicts another.
    """

    title: str = ""
    dataset: list[str] = field(default_factory=list)  # values of the manifest's `dataset`; empty: all
    label: str = ""  # column of the classes, of the value, or of the time to the event
    table: str = ""  # CSV with further columns, joined by its columns key, or subject and, where it has one, session
    kind: str = "classification"  # classification, regression, survival
    classes: dict[str, list[Any]] = field(default_factory=dict)  # name: its labels; {}: every label found is a class
    event: str = ""  # survival: column that is 1 where the event was seen, 0 where the time is censored
    contrasts: list[str] = field(default_factory=list)  # empty: all
    contrast_column: str = "contrast"  # where they stand; a finer column of a data set may tell T1 with contrast agent apart
    keep: dict[str, list[Any]] = field(default_factory=dict)  # column: only rows with one of these values
    exclude: dict[str, list[Any]] = field(default_factory=dict)  # column: no rows with one of these values
    unit: str = "volume"  # what gets one score: volume, session (its contrasts are fused), subject
    group: str = "subject"  # column whose equal values stay on one side of a split and are resampled together
    fusion: str = "mean"  # of several contrasts of a unit: mean, concatenation, product (of experts)
    metric: str = ""  # that the task is judged by; empty: auroc, r2, c_index
    split: SplitSpec = field(default_factory=SplitSpec)
    covariates: CovariateSpec = field(default_factory=CovariateSpec)

    def __post_init__(self) -> None:
        """Check what types cannot."""
        for key, allowed in {"kind": KINDS, "unit": UNITS, "fusion": FUSIONS}.items():
            if getattr(self, key) not in allowed:
                raise UserError(f"{key}={getattr(self, key)} is not one of {', '.join(allowed)}")
        self.metric = self.metric or METRICS[self.kind][0]
        if self.metric not in METRICS[self.kind]:
            raise UserError(f"metric={self.metric} is not one of {', '.join(METRICS[self.kind])}, for kind={self.kind}")
        if not self.label:
            raise UserError("label names no column: say which one holds the classes or values")
        if (self.kind == "survival") != bool(self.event):
            raise UserError("event names the column that says whether the event was seen: kind=survival needs it, others none")
        if self.classes and self.kind != "classification":
            raise UserError(f"classes are for kind=classification, this task's is {self.kind}")
        if len(self.classes) == 1:
            raise UserError("classes names one class only; a probe needs two")


def load_task(name: str) -> tuple[str, TaskSpec]:
    """Read a task by the name of a preset or by the path of a YAML file.

    Returns:
        Its short name and what it says; `table` is relative to the file.

    Raises:
        UserError: no such task (the nearest is named), a file that is no YAML, an unknown key (the nearest is named) or a value
            that is not allowed.
    """
    path = task_file(name)
    try:
        content = OmegaConf.load(path)
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid YAML ({str(error).splitlines()[0]})") from error
    if not isinstance(content, DictConfig):
        raise UserError(f"{path} holds no keys; docs/evaluation.md lists those of a task")
    merged = OmegaConf.structured(TaskSpec(label="-"))
    merged.label, merged.metric = "", ""
    merge(merged, content, str(path), FREE_KEYS)
    try:
        spec = cast(TaskSpec, OmegaConf.to_object(merged))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except OmegaConfBaseException as error:
        raise UserError(f"{path}: {str(error).splitlines()[0]}") from error
    if spec.table and not spec.table.startswith("s3://"):
        spec.table = str(path.parent / spec.table)
    return path.stem, spec


def task_file(name: str) -> Path:
    """Where a task's YAML file lies.

    Raises:
        UserError: there is none.
    """
    if name.endswith((".yaml", ".yml")):
        if not Path(name).is_file():
            raise UserError(f"--task {name}: no such file")
        return Path(name)
    path = PRESETS / "task" / f"{name}.yaml"
    if not path.is_file():
        known = task_names()
        raise UserError(
            f"--task {name}: no such task{nearest(name, known)}; there are {', '.join(known)}, or give a .yaml file"
        )
    return path


def task_names() -> list[str]:
    """The tasks that ship."""
    return sorted(path.stem for path in (PRESETS / "task").glob("*.yaml"))


def label_task(label: str, group: str, folds: int, contrasts: Sequence[str]) -> TaskSpec:
    """The task that the command's `--label` stands for: each volume by itself, every value found a class."""
    return TaskSpec(label=label, group=group, contrasts=list(contrasts), split=SplitSpec(folds=folds))
