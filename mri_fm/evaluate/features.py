"""What a probe may see of units: one array for each of their contrasts, some of which may be missing.

Axes: V volumes, S units, C contrasts of a unit, F features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mri_fm.evaluate.target import Bools, Ints


@dataclass(frozen=True, eq=False)
class Features:
    """Features of S units.

    Attributes:
        value_SC: an array or tensor (S, C, …) of one dtype; 0 where a contrast is missing.
        present_SC: which contrasts a unit has, at least one.
    """

    value_SC: Any
    present_SC: Bools

    @classmethod
    def plain(cls, value_S: Any) -> Features:
        """Units of one contrast: (S, …) becomes (S, 1, …)."""
        return cls(value_S[:, None], np.ones((len(value_S), 1), dtype=np.bool_))

    def __len__(self) -> int:
        return len(self.present_SC)

    def __getitem__(self, rows: Ints | Bools) -> Features:
        """The features of some units."""
        chosen = torch.from_numpy(rows) if isinstance(self.value_SC, Tensor) else rows
        return Features(self.value_SC[chosen], self.present_SC[rows])

    def contrast(self, c: int) -> Features:
        """One contrast alone, of all units; `present_SC` still says who has it."""
        return Features(self.value_SC[:, c : c + 1], self.present_SC[:, c : c + 1])

    def mean(self) -> NDArray[np.float64]:
        """Mean over the contrasts that a unit has, flattened."""
        value_SCF = np.asarray(self.value_SC, dtype=np.float64).reshape(len(self), self.present_SC.shape[1], -1)
        count_S = np.maximum(self.present_SC.sum(axis=1), 1)
        return (value_SCF * self.present_SC[..., None]).sum(axis=1) / count_S[:, None]


def tensors(features: Features) -> tuple[Tensor, Tensor]:
    """Values (S, C, …) and which contrasts there are (S, C), for a network."""
    return torch.as_tensor(features.value_SC), torch.from_numpy(features.present_SC)


def gather(value_V: Any, unit_V: Ints, slot_V: Ints, units: int, slots: int) -> Features:
    """Volumes to units: several volumes of one contrast are averaged.

    Args:
        value_V: array or tensor (V, …).
        unit_V, slot_V: unit and contrast of each volume.
        units, slots: how many of them there are.
    """
    count_SC = np.zeros((units, slots), dtype=np.int64)
    np.add.at(count_SC, (unit_V, slot_V), 1)
    tensor_V = torch.as_tensor(value_V)
    if units == len(tensor_V) and slots == 1 and np.array_equal(unit_V, np.arange(units)):
        value_SC = tensor_V[:, None]
    else:
        value_SC = torch.zeros(units, slots, *tensor_V.shape[1:])
        value_SC.index_put_((torch.from_numpy(unit_V), torch.from_numpy(slot_V)), tensor_V.float(), accumulate=True)
        count = torch.from_numpy(np.maximum(count_SC, 1)).view(units, slots, *(1,) * (tensor_V.ndim - 1))
        value_SC = (value_SC / count).to(tensor_V.dtype)
    return Features(value_SC if isinstance(value_V, Tensor) else value_SC.numpy(), count_SC > 0)


def concatenate(train: Features, test: Features) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The contrasts side by side and which are present; a missing one is the mean of the training units that have it."""
    parts = []
    for c in range(train.present_SC.shape[1]):
        one, other = train.contrast(c), test.contrast(c)
        has_S = one.present_SC[:, 0]
        mean_F = one.mean()[has_S].mean(axis=0) if has_S.any() else np.zeros(one.mean().shape[1])
        parts.append([np.where(f.present_SC, f.mean(), mean_F) for f in (one, other)])
    several = train.present_SC.shape[1] > 1
    flags = [[f.present_SC.astype(np.float64) for f in (train, test)]] if several else []
    first, second = zip(*(parts + flags), strict=True)
    return np.concatenate(first, axis=1), np.concatenate(second, axis=1)
