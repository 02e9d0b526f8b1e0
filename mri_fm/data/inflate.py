"""LZ4 on a GPU: the host reads and checks a payload and hands its blocks on, DALI's decoder inflates them on the device."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mri_fm.config import DataConfig
from mri_fm.data.codecs import LZ4, lz4_blocks
from mri_fm.data.corpus import Sample
from mri_fm.data.reader import BadSampleError, Fault, Reader, ShardReader
from mri_fm.data.source import SampleSource, Status


def can_inflate(samples: Sequence[Sample], reader: Reader, config: DataConfig, device: str) -> bool:
    """Whether the blocks can go to the device as they are: nothing on the host needs the voxels."""
    packed = all(sample.codec == LZ4.name for sample in samples) and isinstance(reader, ShardReader)
    return device == "gpu" and packed and config.crop_foreground == 0.0


class InflatingSource(SampleSource):
    """Gives `pipeline.BLOCKS` in place of voxels; its reader is a `ShardReader` of `lz4` payloads."""

    reader: ShardReader
    _payload = b""

    def _read(self, position: int, index: int) -> np.ndarray:
        """An array of the sample's shape that stands for its voxels; its payload is read once for all views of a position."""
        sample = self.samples[index]
        if self._read_last != (position, index):
            with self.activity.reading(position, index):
                self._payload, self._read_last = self.reader.read_payload(sample), (position, index)
        try:
            lz4_blocks(self._payload, sample.shape[0])
        except ValueError as error:
            raise BadSampleError(Fault.SHAPE) from error
        return np.broadcast_to(np.int16(0), sample.shape)

    def _inputs(self, index: int, voxels_ZYX: np.ndarray, status: Status) -> tuple[np.ndarray, ...]:
        payload = LZ4.encode(voxels_ZYX) if status.served < 0 else self._payload
        blocks, sizes = lz4_blocks(payload, len(voxels_ZYX))
        plane = np.array([*voxels_ZYX.shape[1:], 1], dtype=np.int32)
        return blocks, sizes, plane, *super()._inputs(index, voxels_ZYX, status)[1:]
