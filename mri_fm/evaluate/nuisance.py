"""The baseline that sees no anatomy: how bright, how large and from where a scan is.

Axes: B batch, V volumes, S units, C channels, F features, Z/Y/X voxels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mri_fm.data.corpus import Sample
from mri_fm.evaluate.table import Column

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def intensity_moments(x_BCZYX: Tensor, foreground_BCZYX: Tensor) -> Tensor:
    """Mean, deviation, skewness, kurtosis and quantiles of each input over its foreground, float32 (B, 9)."""
    rows = []
    for x_CZYX, inside_CZYX in zip(x_BCZYX, foreground_BCZYX, strict=True):
        value_P = x_CZYX[inside_CZYX].double() if bool(inside_CZYX.any()) else x_CZYX.flatten().double()
        mean, deviation = value_P.mean(), value_P.std(unbiased=False).clamp(min=1e-6)
        standard_P = (value_P - mean) / deviation
        value_P = value_P[:: max(1, len(value_P) // 100_000)]  # torch.quantile takes at most 2²⁴ values
        quantile_Q = torch.quantile(value_P, torch.tensor(QUANTILES, dtype=torch.float64, device=value_P.device))
        rows.append(torch.cat([torch.stack([mean, deviation, (standard_P**3).mean(), (standard_P**4).mean()]), quantile_Q]))
    return torch.stack(rows).float()


def head_and_grid(samples: Sequence[Sample]) -> NDArray[np.float32]:
    """Log volume of the box around the head (mm³), its log extents, spacing along z, y, x, stored percentiles: (V, 9)."""
    rows = []
    for sample in samples:
        extent, spacing = np.array(sample.shape) * np.array(sample.spacing), np.array(sample.spacing)
        rows.append(np.concatenate([[np.log(extent.prod())], np.log(extent), spacing, [sample.p01, sample.p99]]))
    return np.array(rows, dtype=np.float32)


def one_hot(values: Column) -> NDArray[np.float64]:
    """One column for each text, (S, F); a unit without one is a row of zeros."""
    known = sorted({value for value in values if value is not None})
    return np.array([[float(value == name) for name in known] for value in values]).reshape(len(values), len(known))
