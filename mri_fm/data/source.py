"""What DALI's external source calls: sample number → payload, parameters and status. It never raises.

An exception inside the callable would invalidate the pipeline and could lose or repeat prefetched samples, so a bad sample
is replaced here, whatever is bad about it, and reported in a status array that travels with the batch.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mri_fm.data.corpus import Sample
from mri_fm.data.geometry import plan_reading
from mri_fm.data.params import BIAS_POINTS, SampleParams, blur_window, intensity_gain
from mri_fm.data.plan import MAX_TRIES, Plan
from mri_fm.data.positions import row_of
from mri_fm.data.reader import BadSampleError, Fault, Reader
from mri_fm.data.workers import Activity

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Status:
    """What happened at one row.

    Attributes:
        row: which one.
        served: the sample, -1: none.
        faults: of each candidate that failed before it.
        cached: whether the sample came from this node's cache.
    """

    row: int
    served: int
    faults: tuple[Fault, ...]
    cached: bool = False

    def pack(self) -> np.ndarray:
        """As int64 (3 + MAX_TRIES,), for DALI."""
        faults = self.faults + (Fault.NONE,) * (MAX_TRIES - len(self.faults))
        return np.array([self.row, self.served, self.cached, *faults], dtype=np.int64)

    @classmethod
    def unpack(cls, row: np.ndarray) -> Status:
        """Reverse of `pack`."""
        faults = tuple(Fault(int(code)) for code in row[3:] if code != Fault.NONE)
        return cls(int(row[0]), int(row[1]), faults, bool(row[2]))


class SampleSource:
    """The callable that DALI calls once per sample."""

    def __init__(self, samples: Sequence[Sample], plan: Plan, statistics: str, reader: Reader) -> None:
        """`statistics` chooses the percentiles: of the "foreground" or of the whole "volume"."""
        self.samples, self.plan, self.statistics, self.reader = samples, plan, statistics, reader
        self.activity = Activity(workers=0)
        self._read_last, self._voxels_ZYX = (-1, -1), np.empty(0, dtype=np.int16)
        self._failed: dict[tuple[int, int], Fault] = {}

    def __call__(self, info: Any) -> tuple[np.ndarray, ...]:
        """Arguments of the graph for `nvidia.dali.types.SampleInfo`, in the order of `pipeline.INPUTS`."""
        return self.fetch(self.activity.first + info.idx_in_epoch)

    def fetch(self, number: int) -> tuple[np.ndarray, ...]:
        """As `__call__`, for the `number`-th sample."""
        row = self.plan.row(number)
        faults: list[Fault] = []
        for tries in range(self.plan.tries):
            index = self.plan.candidate(row, tries)
            try:
                voxels_ZYX = self._read_once(row_of(row).position, index)
                return self._inputs(index, voxels_ZYX, Status(row, index, tuple(faults), self.reader.cached))
            except BadSampleError as error:
                faults.append(error.fault)
            except Exception:
                _log.exception("row %d: %s", row, self.describe(row_of(row).position, index))
                faults.append(Fault.PROGRAM)
        return self._inputs(0, np.zeros(self.samples[0].shape, dtype=np.int16), Status(row, -1, tuple(faults)))

    def _inputs(self, index: int, voxels_ZYX: np.ndarray, status: Status) -> tuple[np.ndarray, ...]:
        sample = self.samples[index]
        params = self.plan.params(status.row, sample, voxels_ZYX)
        return graph_inputs(voxels_ZYX, params, intensity_window(sample, self.statistics), status)

    def _read_once(self, position: int, index: int) -> np.ndarray:
        """As `_read`; what failed for one view of a position fails for all, so that they show one volume."""
        self._failed = {read: fault for read, fault in self._failed.items() if read[0] == position}
        if (fault := self._failed.get((position, index))) is not None:
            raise BadSampleError(fault)
        try:
            return self._read(position, index)
        except BadSampleError as error:
            self._failed[position, index] = error.fault
            raise

    def _read(self, position: int, index: int) -> np.ndarray:
        """The voxels of a sample; read once for all views of a position."""
        if self._read_last != (position, index):
            with self.activity.reading(position, index):
                self._voxels_ZYX, self._read_last = self.reader.read(self.samples[index]), (position, index)
        return self._voxels_ZYX

    def describe(self, position: int, index: int) -> str:
        """Words for a read of the `index`-th sample."""
        return f"{self.samples[index].key} in {self.samples[index].shard.name} at position {position}"


def intensity_window(sample: Sample, statistics: str) -> tuple[float, float]:
    """The 1st and 99th percentile that a sample is clipped to, stored units."""
    return (sample.crop_p01, sample.crop_p99) if statistics == "volume" else (sample.p01, sample.p99)


def graph_inputs(
    voxels_ZYX: np.ndarray, params: SampleParams, window: tuple[float, float], status: Status
) -> tuple[np.ndarray, ...]:
    """The arrays of `pipeline.INPUTS` for a payload int16 (z, y, x)."""
    reading = plan_reading(params, voxels_ZYX.shape)
    blur = params.blur_voxels()
    return (
        voxels_ZYX[..., None],
        reading.begin,
        reading.end,
        reading.resized_shape,
        np.array(reading.padded),
        reading.anchor,
        reading.padded_shape,
        np.array(reading.rotated),
        reading.view,
        reading.view_begin,
        reading.view_end,
        reading.view_shape,
        reading.matrix,
        reading.plane,
        np.array(params.size, dtype=np.float32),
        np.array(params.depth_axis, dtype=np.int32),
        np.array([window[0], intensity_gain(window)], dtype=np.float32),
        np.array(params.gamma, dtype=np.float32),
        params.bias.reshape(BIAS_POINTS, BIAS_POINTS, BIAS_POINTS, 1),
        np.array(params.blur > 0),
        blur,
        blur_window(blur),
        np.array(params.noise, dtype=np.float32),
        params.input_spacing(),
        status.pack(),
    )
