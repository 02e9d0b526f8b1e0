"""A labelled task: which rows of the manifest, what class and which unit each, and what may be claimed of them.

Axes: S samples (volumes).
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from mri_fm.errors import UserError
from mri_fm.evaluate.splits import Ints

MAX_CLASSES = 20
VARIANT = "variant"  # the manifest's `kind` of a volume rendered from another one


@dataclass(frozen=True)
class Task:
    """The rows of the manifest that carry a label."""

    label: str
    unit: str
    classes: tuple[str, ...]  # names, in ascending order
    row_S: Ints  # row of the manifest
    label_S: Ints  # class number
    unit_S: Ints  # unit number, 0…U-1
    missing: int  # rows left out for want of a label or a unit
    contrasts: tuple[str, ...]  # of these rows, in ascending order
    caption: str

    @property
    def units(self) -> int:
        """Number of distinct units U."""
        return int(self.unit_S.max()) + 1

    def require_folds(self, folds: int) -> None:
        """Refuse more folds than units before anything is computed.

        Raises:
            UserError: there are too few units.
        """
        if folds > self.units:
            raise UserError(
                f"--folds {folds}: '{self.label}' has {self.units} {self.unit} units only; take --folds {self.units} or fewer"
            )


def read_task(table: pa.Table, label: str, unit: str, contrasts: Sequence[str] = ()) -> Task:
    """Read a label and a unit column of a manifest.

    Args:
        table: the manifest.
        label: column of classes: strings, booleans or whole numbers; rows without a value are left out and counted.
        unit: column whose equal values share a fold and are resampled together; rows without a value are left out too.
        contrasts: keep the volumes of these alone; none given: all.

    Raises:
        UserError: no such column, no labelled row, one class only, a continuous column, a class within one unit, an
            empty unit column, a contrast that no labelled volume has.
    """
    values, units = _column(table, label, "--label"), _column(table, unit, "--unit")
    contrast = table.column("contrast").to_pylist()
    _require_units(units, unit)
    usable = [i for i in range(len(values)) if not (_is_missing(values[i]) or _is_missing(units[i]))]
    _require_contrasts(contrasts, {contrast[i] for i in usable}, label)
    chosen = sum(name in (contrasts or [name]) for name in contrast)
    row_S = np.array([i for i in usable if contrast[i] in (contrasts or [contrast[i]])], dtype=np.int64)
    classes, label_S = _classes([values[i] for i in row_S], label)
    unit_S = _unit_numbers([units[i] for i in row_S])
    for number, name in enumerate(classes):
        if len(np.unique(unit_S[label_S == number])) < 2:
            raise UserError(f"class '{name}' of '{label}' lies within one {unit}, so it cannot be both learned and tested; "
                            "take a finer --unit or another label")  # fmt: skip
    caption = _caption(table, row_S, unit, int(unit_S.max()) + 1)
    present = tuple(sorted({contrast[i] for i in row_S}))
    return Task(label, unit, classes, row_S, label_S, unit_S, chosen - len(row_S), present, caption)


def _column(table: pa.Table, name: str, flag: str) -> list[Any]:
    if name in table.column_names:
        return table.column(name).to_pylist()
    near = difflib.get_close_matches(name, table.column_names, n=1, cutoff=0.4)
    hint = f", did you mean '{near[0]}'?" if near else ""
    raise UserError(f"{flag} {name}: the manifest has no such column{hint}; it has {', '.join(table.column_names)}")


def _require_contrasts(asked: Sequence[str], present: set[str], label: str) -> None:
    absent = [contrast for contrast in asked if contrast not in present]
    if absent and present:
        raise UserError(f"--contrasts {' '.join(absent)}: no volume with a value in '{label}' is of that contrast; "
                        f"these are: {', '.join(sorted(present))}")  # fmt: skip


def _is_missing(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def _classes(values: Sequence[Any], label: str) -> tuple[tuple[str, ...], Ints]:
    """Class names in ascending order of their values, and the class number of each value."""
    if not values:
        raise UserError(f"--label {label}: no volume of the corpus has a value in this column")
    if isinstance(values[0], list | dict):
        raise UserError(f"--label {label}: this column holds lists, not classes; choose another")
    distinct = sorted(set(values))
    if len(distinct) == 1:
        raise UserError(f"--label {label}: all {len(values)} labelled volumes are '{distinct[0]}'; a probe needs two classes")
    fractional = any(isinstance(v, float) and not v.is_integer() for v in distinct)
    if fractional or len(distinct) > MAX_CLASSES:
        raise UserError(
            f"--label {label}: {len(distinct)} distinct values are no classes; group them into at most {MAX_CLASSES}"
        )
    number = {value: i for i, value in enumerate(distinct)}
    names = tuple(str(int(v)) if isinstance(v, float) else str(v) for v in distinct)
    return names, np.array([number[value] for value in values], dtype=np.int64)


def _require_units(values: Sequence[Any], unit: str) -> None:
    if all(map(_is_missing, values)):
        raise UserError(f"--unit {unit}: no volume has a value in this column; choose another")


def _unit_numbers(values: Sequence[Any]) -> Ints:
    return np.unique(np.array([str(value) for value in values]), return_inverse=True)[1].astype(np.int64)


def _caption(table: pa.Table, row_S: Ints, unit: str, units: int) -> str:
    """What the numbers speak of. Rendered volumes say nothing about people, and the caption says so."""
    rows = table.take(pa.array(row_S))
    if "kind" in rows.column_names and VARIANT in rows.column("kind").to_pylist():
        bases = {base for base in _column(rows, "base", "column") if not _is_missing(base)}
        return f"rendered, {len(bases)} base anatomies, no claim about people"
    return f"{len(row_S)} volumes, {units} distinct values of {unit}"
