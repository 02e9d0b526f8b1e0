"""A task on a corpus: the volumes with a label, the units that they make up, and what may be claimed of them.

Axes: V volumes, S units (what gets one score).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from mri_fm.errors import UserError
from mri_fm.evaluate.spec import TaskSpec
from mri_fm.evaluate.table import Column, column_of, columns_of, is_missing, text
from mri_fm.evaluate.target import Ints, Target

MAX_CLASSES = 20
VARIANT = "variant"  # the manifest's `kind` of a volume rendered from another one
ANY_CONTRAST = "any"
NO_CLAIM = "no claim about people"


@dataclass(frozen=True, eq=False)
class Task:
    """The labelled volumes of a corpus.

    Attributes:
        name, spec: what was asked.
        target: of the units.
        row_V: row of the manifest of each volume.
        unit_V: number of the unit it belongs to, 0…S-1.
        slot_V: number of its contrast in `slots`; volumes that are scored by themselves share one.
        slots: contrasts that a unit may have.
        group_S: number of the group of each unit; a group stays on one side of a split and is resampled as a whole.
        covariates: by name (age: float, others: text or None), one value a unit; those without a column are absent.
        unit_names: how the units are called in pictures and files.
        missing: volumes left out for want of a label or a group.
        contrasts: of the volumes, in ascending order.
        caption: what the numbers speak of.
    """

    name: str
    spec: TaskSpec
    target: Target
    row_V: Ints
    unit_V: Ints
    slot_V: Ints
    slots: tuple[str, ...]
    group_S: Ints
    covariates: dict[str, Column]
    unit_names: tuple[str, ...]
    missing: int
    contrasts: tuple[str, ...]
    caption: str

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.target.classes

    @property
    def groups(self) -> int:
        """Number of groups."""
        return int(self.group_S.max()) + 1

    def require_folds(self, folds: int) -> None:
        """Refuse more folds than groups before anything is computed.

        Raises:
            UserError: there are too few groups.
        """
        if folds > self.groups:
            raise UserError(
                f"--folds {folds}: '{self.name}' has {self.groups} groups by {self.spec.group} only; "
                f"take --folds {self.groups} or fewer"
            )


def resolve_task(name: str, spec: TaskSpec, table: pa.Table) -> Task:
    """Find a task's volumes in a manifest.

    Args:
        name: of the task, for messages.
        spec: what to look for.
        table: the manifest.

    Raises:
        UserError: no such column (the nearest is named), no labelled volume, one class only, a continuous label without
            kind=regression, a class within one group, labels that contradict each other within a unit, an empty group column,
            a contrast that no labelled volume has, or times and events that are none.
    """
    columns = columns_of(table, spec.table)
    chosen = _chosen(name, spec, columns)
    label, group = (column_of(columns, getattr(spec, key), f"{name}: {key}") for key in ("label", "group"))
    needed = [label, group, *([column_of(columns, spec.event, f"{name}: event")] if spec.event else [])]
    if all(is_missing(group[i]) for i in range(len(group))):
        raise UserError(f"{name}: group={spec.group}: no volume has a value in this column; choose another")
    wanted = _wanted_labels(spec)
    usable = [i for i in chosen if not any(is_missing(c[i]) for c in needed) and (not wanted or text(label[i]) in wanted)]
    missing = sum(any(is_missing(c[i]) for c in needed) for i in chosen)
    if not usable:
        raise UserError(f"{name}: label={spec.label}: no volume of the corpus has a value in this column{_asked(spec)}")
    unit_V, first_S = _units(spec, columns, usable)
    target = _target(name, spec, columns, [usable[i] for i in first_S], wanted)
    _require_agreement(name, spec, [text(label[i]) for i in usable], unit_V, columns, usable)
    group_S = numbered([text(group[usable[i]]) for i in first_S])
    _require_spread(name, spec, target, group_S)
    contrast_V = [str(columns[spec.contrast_column][i]) for i in usable]
    slots = tuple(sorted(set(contrast_V))) if spec.unit != "volume" else (ANY_CONTRAST,)
    return Task(
        name=name,
        spec=spec,
        target=target,
        row_V=np.array(usable, dtype=np.int64),
        unit_V=unit_V,
        slot_V=np.array([slots.index(c) if spec.unit != "volume" else 0 for c in contrast_V], dtype=np.int64),
        slots=slots,
        group_S=group_S,
        covariates=_covariates(spec, columns, usable, unit_V),
        unit_names=tuple(_unit_name(spec, columns, usable[i]) for i in first_S),
        missing=missing,
        contrasts=tuple(sorted(set(contrast_V))),
        caption=_caption(spec, columns, usable, len(target), int(group_S.max()) + 1),
    )


def numbered(values: Sequence[str]) -> Ints:
    """Equal values get equal numbers, from 0."""
    return np.unique(np.array(values), return_inverse=True)[1].astype(np.int64)


def _chosen(name: str, spec: TaskSpec, columns: Mapping[str, Column]) -> list[int]:
    """Rows of the data sets, contrasts and conditions asked for."""
    rows: Sequence[int] = range(len(columns["contrast"]))
    contrast = column_of(columns, spec.contrast_column, f"{name}: contrast_column")
    if spec.dataset:
        wanted = {text(value).lower() for value in spec.dataset}
        data = column_of(columns, "dataset", f"{name}: dataset")
        rows_of_data = [i for i in rows if text(data[i]).lower() in wanted]
        if not rows_of_data:
            present = sorted({text(value) for value in data})
            raise UserError(f"{name}: dataset={', '.join(spec.dataset)}: the corpus has none of it, but {', '.join(present)}")
        rows = rows_of_data
    for key, inside in (("keep", True), ("exclude", False)):
        for column, values in getattr(spec, key).items():
            found, listed = column_of(columns, column, f"{name}: {key}"), {text(value) for value in values}
            rows = [i for i in rows if (text(found[i]) in listed) == inside]
    _require_contrasts(name, spec, columns, rows)
    return [i for i in rows if not spec.contrasts or contrast[i] in spec.contrasts]


def _require_contrasts(name: str, spec: TaskSpec, columns: Mapping[str, Column], rows: Sequence[int]) -> None:
    label = column_of(columns, spec.label, f"{name}: label")
    present = {str(columns[spec.contrast_column][i]) for i in rows if not is_missing(label[i])}
    absent = [contrast for contrast in spec.contrasts if contrast not in present]
    strict = spec.unit == "volume" or len(absent) == len(spec.contrasts)  # units may lack contrasts
    if absent and present and strict:
        raise UserError(
            f"{name}: contrasts {' '.join(absent)}: no volume with a value in '{spec.label}' is of that contrast; "
            f"these are: {', '.join(sorted(present))}"
        )


def _wanted_labels(spec: TaskSpec) -> dict[str, int]:
    """The class number of each label that the task names."""
    return {text(value): number for number, values in enumerate(spec.classes.values()) for value in values}


def _asked(spec: TaskSpec) -> str:
    values = ", ".join(_wanted_labels(spec))
    return f" that is one of {values}" if values else ""


def _units(spec: TaskSpec, columns: Mapping[str, Column], rows: Sequence[int]) -> tuple[Ints, Ints]:
    """The unit of each volume, and the place of the first volume of each unit; units keep the order of the manifest."""
    if spec.unit == "volume":
        every = np.arange(len(rows), dtype=np.int64)
        return every, every
    names = ("dataset", "subject", "session")[: 3 if spec.unit == "session" else 2]
    identity = [tuple(text(columns[name][i]) for name in names if name in columns) for i in rows]
    numbers: dict[tuple[str, ...], int] = {}
    unit_V = np.array([numbers.setdefault(value, len(numbers)) for value in identity], dtype=np.int64)
    return unit_V, np.unique(unit_V, return_index=True)[1].astype(np.int64)


def _unit_name(spec: TaskSpec, columns: Mapping[str, Column], row: int) -> str:
    if spec.unit == "volume":
        return text(columns["key"][row]) if "key" in columns else str(row)
    return " ".join(text(columns[name][row]) for name in ("subject", "session")[: 2 if spec.unit == "session" else 1])


def _target(name: str, spec: TaskSpec, columns: Mapping[str, Column], rows: Sequence[int], wanted: dict[str, int]) -> Target:
    values = [columns[spec.label][i] for i in rows]
    if spec.kind == "classification":
        if not wanted:
            return _found_classes(values, name, spec.label)
        return Target.of_classes(np.array([wanted[text(v)] for v in values], dtype=np.int64), tuple(spec.classes))
    value_S = _numbers(name, spec.label, values)
    if spec.kind == "regression":
        if len(np.unique(value_S)) < 3:
            raise UserError(f"{name}: label={spec.label}: fewer than 3 distinct values; take kind=classification")
        return Target(value_S, "regression")
    event_S = _numbers(name, spec.event, [columns[spec.event][i] for i in rows])
    if not np.isin(event_S, (0, 1)).all() or not event_S.any() or (value_S <= 0).any():
        raise UserError(
            f"{name}: '{spec.event}' must be 1 (event seen) or 0 (censored), at least once 1, and '{spec.label}' above 0"
        )
    return Target(value_S, "survival", (), event_S.astype(np.bool_))


def _numbers(name: str, column: str, values: Sequence[Any]) -> np.ndarray:
    numbers = [_number(value) for value in values]
    if None in numbers:
        raise UserError(f"{name}: column '{column}' holds '{values[numbers.index(None)]}', which is no number")
    return np.array(numbers, dtype=np.float64)


def _found_classes(values: Sequence[Any], name: str, label: str) -> Target:
    """Classes in ascending order of the values found."""
    if isinstance(values[0], list | dict):
        raise UserError(f"{name}: label={label}: this column holds lists, not classes; choose another")
    distinct = sorted(set(values))
    if len(distinct) == 1:
        raise UserError(
            f"{name}: label={label}: all {len(values)} labelled volumes are '{distinct[0]}'; a probe needs two classes"
        )
    fractional = any(isinstance(v, float) and not v.is_integer() for v in distinct)
    if fractional or len(distinct) > MAX_CLASSES:
        raise UserError(
            f"{name}: label={label}: {len(distinct)} distinct values are no classes; group them into at most {MAX_CLASSES}, "
            "or take a task of kind=regression"
        )
    number = {value: i for i, value in enumerate(distinct)}
    return Target.of_classes(np.array([number[v] for v in values], dtype=np.int64), tuple(text(v) for v in distinct))


def _require_agreement(
    name: str, spec: TaskSpec, label_V: Sequence[str], unit_V: Ints, columns: Mapping[str, Column], rows: Sequence[int]
) -> None:
    """One unit has one label."""
    seen: dict[int, str] = {}
    for place, (unit, label) in enumerate(zip(unit_V.tolist(), label_V, strict=True)):
        if seen.setdefault(unit, label) != label:
            raise UserError(
                f"{name}: {spec.unit} '{_unit_name(spec, columns, rows[place])}' has the labels '{seen[unit]}' and '{label}' "
                f"in '{spec.label}'; take unit=volume or session, or mend the table"
            )


def _require_spread(name: str, spec: TaskSpec, target: Target, group_S: Ints) -> None:
    for number, title in enumerate(target.classes):
        groups = len(np.unique(group_S[target.labels == number]))
        if groups == 0:
            raise UserError(f"{name}: no volume of class '{title}'; a probe needs all classes: {', '.join(target.classes)}")
        if groups < 2:
            raise UserError(
                f"{name}: class '{title}' of '{spec.label}' lies within one {spec.group}, so it cannot be both learned and "
                "tested; take a finer --group or another label"
            )


def _covariates(spec: TaskSpec, columns: Mapping[str, Column], rows: Sequence[int], unit_V: Ints) -> dict[str, Column]:
    """By name, the first value that a volume of each unit has; the label itself explains nothing and is left out."""
    found: dict[str, Column] = {}
    for name in ("age", "sex", "site", "scanner"):
        column = columns.get(getattr(spec.covariates, name))
        if column is None or getattr(spec.covariates, name) == spec.label:
            continue
        values: list[Any] = [None] * (int(unit_V.max()) + 1)
        for row, unit in zip(rows, unit_V.tolist(), strict=True):
            if values[unit] is None and not is_missing(column[row]):
                values[unit] = _number(column[row]) if name == "age" else text(column[row])
        found[name] = values
    return found


def _number(value: Any) -> float | None:
    """A finite number, or None."""
    try:
        return float(value) if math.isfinite(float(value)) else None
    except (TypeError, ValueError):
        return None


def _caption(spec: TaskSpec, columns: Mapping[str, Column], rows: Sequence[int], units: int, groups: int) -> str:
    """What the numbers speak of. Rendered volumes say nothing about people, and the caption says so."""
    if any(columns["kind"][i] == VARIANT for i in rows if "kind" in columns):
        bases = {columns["base"][i] for i in rows if not is_missing(columns["base"][i])}
        return f"rendered, {len(bases)} base anatomies, {NO_CLAIM}"
    scored = "" if spec.unit == "volume" else f"{units} {spec.unit}s, "
    return f"{len(rows)} volumes, {scored}{groups} distinct values of {spec.group}"
