"""What is to be predicted of units: a class, a value, or the time to an event.

Axes: S units, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
STRATA = 4  # quantiles of a value among which folds are balanced


@dataclass(frozen=True, eq=False)
class Target:
    """Labels of S units.

    Attributes:
        value_S: class number 0…K-1, value, or time to the event, by `kind`.
        kind: classification, regression, survival.
        classes: their names; () where there are none.
        event_S: survival: whether the event was seen, else the time is that of the last look.
    """

    value_S: Floats
    kind: str = "classification"
    classes: tuple[str, ...] = ()
    event_S: Bools = field(default_factory=lambda: np.zeros(0, dtype=np.bool_))

    @classmethod
    def of_classes(cls, label_S: Ints, classes: tuple[str, ...] = ()) -> Target:
        """A classification; names by default are the numbers."""
        names = classes or tuple(str(k) for k in range(int(label_S.max()) + 1))
        return cls(label_S.astype(np.float64), "classification", names)

    def __len__(self) -> int:
        return len(self.value_S)

    def __getitem__(self, rows: Ints | Bools) -> Target:
        """The target of some units."""
        return Target(self.value_S[rows], self.kind, self.classes, self.event_S[rows] if len(self.event_S) else self.event_S)

    def permuted(self, order_S: Ints) -> Target:
        """Unit i gets the label of unit `order_S[i]`."""
        return self[order_S]

    @property
    def labels(self) -> Ints:
        """The class numbers."""
        return self.value_S.astype(np.int64)

    @property
    def outputs(self) -> int:
        """Columns of a score: one for each class, else one."""
        return len(self.classes) if self.kind == "classification" else 1

    @property
    def prior(self) -> Floats:
        """What is said of a unit that nothing is known of, (K,): shares of the classes, mean value, a log hazard of 0."""
        if self.kind == "classification":
            return np.bincount(self.labels, minlength=self.outputs) / len(self)
        return np.array([self.value_S.mean() if self.kind == "regression" else 0.0])

    @property
    def strata(self) -> Ints:
        """What folds are balanced by: class, quantile of the value, or whether the event was seen."""
        if self.kind == "classification":
            return self.labels
        if self.kind == "survival":
            return self.event_S.astype(np.int64)
        edges = np.quantile(self.value_S, np.linspace(0, 1, STRATA + 1)[1:-1])
        return np.searchsorted(edges, self.value_S, side="right").astype(np.int64)
