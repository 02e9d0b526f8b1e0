"""A copy of one rank's state in host memory, laid out as the file that the writer process makes of it."""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence

import torch
from torch import Tensor

from mri_fm.engine.fragments import Fragment
from mri_fm.engine.stored import fragment_key
from mri_fm.engine.tensor_file import lay_out


class Snapshot:
    """Memory shared with the writer by its descriptor; kept from one checkpoint to the next.

    It has no name and no part in /dev/shm, which containers keep small: it is freed with the processes that hold it.
    """

    def __init__(self) -> None:
        """Take no memory yet."""
        self.descriptor = os.memfd_create("checkpoint")
        self.size = 0
        self._bytes = torch.empty(0, dtype=torch.uint8)

    def take(self, fragments: Sequence[Fragment]) -> None:
        """Copy the fragments; on return they may change. The only part of a checkpoint for which training waits."""
        layout = lay_out({fragment_key(f): (f.values_N.dtype, f.values_N.shape) for f in fragments})
        file = self._resize(layout.size)
        layout.start(file)
        for fragment in fragments:
            layout.places[fragment_key(fragment)].of(file).copy_(fragment.values_N)

    def _resize(self, size: int) -> Tensor:
        if size != self.size:
            self._bytes = torch.empty(0, dtype=torch.uint8)
            os.ftruncate(self.descriptor, size)
            self._bytes = torch.frombuffer(mmap.mmap(self.descriptor, size), dtype=torch.uint8)
            self.size = size
        return self._bytes
