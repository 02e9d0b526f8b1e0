"""What every method of the table learns from, and what it gives.

Axes: S units, K outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from mri_fm.evaluate.features import Features
from mri_fm.evaluate.splits import grouped_folds
from mri_fm.evaluate.target import Floats, Ints, Target

VALIDATION_PARTS = 4  # a quarter of the training groups chooses the epoch


@dataclass(frozen=True, eq=False)
class TrainingPart:
    """The units that a method learns from and chooses on: training and validation part of a split.

    Attributes:
        features: of these units.
        target: their labels.
        group_S: their groups.
        held: numbers of the validation units among them; None or empty: the method draws its own.
        seed, index: key all that is drawn.
    """

    features: Features
    target: Target
    group_S: Ints
    held: Ints | None = None
    seed: int = 0
    index: int = 1

    def __len__(self) -> int:
        return len(self.target)

    @property
    def has_validation(self) -> bool:
        """Whether the split has a validation part."""
        return self.held is not None and len(self.held) > 0

    def reading(self, features: Features) -> TrainingPart:
        """The same units by other features."""
        return replace(self, features=features)

    def contrast(self, c: int) -> tuple[TrainingPart, Ints]:
        """The units that have one contrast, read by it alone, and their numbers in this part."""
        has_S = np.flatnonzero(self.features.present_SC[:, c])
        held = None if self.held is None else np.flatnonzero(np.isin(has_S, self.held))
        features = self.features.contrast(c)[has_S]
        return replace(self, features=features, target=self.target[has_S], group_S=self.group_S[has_S], held=held), has_S

    def can_teach(self, outputs: int) -> bool:
        """Whether there are two groups at least, and all of so many classes."""
        return len(np.unique(self.group_S)) > 1 and (not self.target.classes or len(np.unique(self.target.labels)) == outputs)

    def choosing(self) -> Ints:
        """The units that choose an epoch: the validation part, else one of `VALIDATION_PARTS` folds; of one group all."""
        if self.held is not None and self.has_validation:
            return self.held
        groups = len(np.unique(self.group_S))
        if groups < 2:
            return np.arange(len(self))
        parts = min(VALIDATION_PARTS, groups)
        return np.flatnonzero(grouped_folds(self.target.strata, self.group_S, parts, seed=self.seed, index=self.index) == 0)


@dataclass(frozen=True, eq=False)
class Fitted:
    """Scores of a model.

    Attributes:
        test_SK: of the test units: class probabilities, values or log hazards.
        held_SK: of training units, by models that had not seen them: thresholds and temperatures are chosen on these.
        held: their numbers in the training part; none where it has too few groups.
    """

    test_SK: Floats
    held_SK: Floats
    held: Ints


Fit = Callable[[TrainingPart, Features], Fitted]
"""A method: learns from a part and scores test units, of which it is given nothing but the features."""
