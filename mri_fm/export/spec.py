"""What an encoder expects of its input, and what of a scan becomes it: the corpus build's steps, then evaluation's.

Axes: Z, Y, X source voxels (RAS+); D, H, W depth, height, width of the input.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mri_fm.data.evaluation import EvaluationConfig
from mri_fm.data.params import SampleParams, centre_params
from mri_fm.data.twin import augment_volume
from mri_fm.models.patches import Size3
from mri_fm.volume.prepare import AS_IT_IS, Prepared
from mri_fm.volume.processing import Processing


@dataclass(frozen=True)
class InputSpec:
    """The settings of `InputScan`.

    Attributes:
        size: voxels of the input along depth, height, width.
        statistics: percentiles and z-score over the "foreground" or the whole "volume".
        evaluation: which axis is the depth, and what of the plane across it is kept.
        max_spacing: mm between voxels at most.
        processing: what the corpus build did to volumes: brain extraction, bias correction, resampling.
    """

    size: Size3
    statistics: str
    evaluation: EvaluationConfig
    max_spacing: float
    processing: Processing = AS_IT_IS


@dataclass(frozen=True, eq=False)
class InputScan:
    """A scan, ready to be encoded.

    Attributes:
        prepared: the scan as the corpus build has it; `prepared.crop.voxels` is the int16 payload that a shard would hold.
        spec: how it becomes an input.
    """

    prepared: Prepared
    spec: InputSpec

    @cached_property
    def params(self) -> SampleParams:
        """The centre crop, nothing drawn."""
        rules = self.spec.evaluation
        shape, spacing = self.prepared.crop.voxels.shape, self.prepared.canonical.spacing
        return centre_params(shape, self.spec.size, spacing=spacing, plane=rules.plane, crop=rules.crop)

    @property
    def window(self) -> tuple[float, float]:
        """The percentiles that intensities are clipped to, stored units, in the manifest's precision."""
        crop = self.prepared.crop
        low, high = (crop.crop_p01, crop.crop_p99) if self.spec.statistics == "volume" else (crop.p01, crop.p99)
        return float(np.float32(low)), float(np.float32(high))

    def tensor(self) -> Tensor:
        """The network's input, float32 (D, H, W), z-scored."""
        voxels_ZYX = self.prepared.crop.voxels
        return augment_volume(voxels_ZYX, self.params, self.window, self.spec.size, self.spec.statistics).x_DHW

    def spacing(self) -> Tensor:
        """Millimetres between voxels of the input along depth, height, width, float32 (3,)."""
        return torch.from_numpy(self.params.input_spacing())


def spec_to_json(spec: InputSpec) -> dict[str, Any]:
    """The settings, under the names of `data.*`."""
    return {
        "size": list(spec.size),
        "statistics": spec.statistics,
        "plane": spec.evaluation.plane,
        "crop": spec.evaluation.crop,
        "max_spacing_mm": spec.max_spacing,
        "processing": asdict(spec.processing),
    }


def spec_from_json(content: Mapping[str, Any]) -> InputSpec:
    """The inverse of `spec_to_json`.

    Raises:
        KeyError, TypeError, ValueError, UserError: it is none.
    """
    depth, height, width = (int(axis) for axis in content["size"])
    if min(depth, height, width) < 1 or content["statistics"] not in ("foreground", "volume"):
        raise ValueError(f"size {content['size']}, statistics {content['statistics']}")
    evaluation = EvaluationConfig(plane=content["plane"], crop=content["crop"])
    processing = Processing(**content["processing"])
    return InputSpec((depth, height, width), content["statistics"], evaluation, float(content["max_spacing_mm"]), processing)
