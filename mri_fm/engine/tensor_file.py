"""A safetensors file laid out in memory that another process writes to the disk.

Files are read, and whole tensors written, by the safetensors package. What it cannot do is put tensors into memory that is
there: it makes a new file of tensors that this process holds. A checkpoint is copied from the device straight into memory
shared with its writer, which hashes and writes these bytes without torch; so the header is made here, by the format's
specification (huggingface.co/docs/safetensors, "Format"): 8 bytes with the header's length, little-endian; a JSON header with
dtype, shape and byte range of each tensor; the bytes of the tensors without gaps.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_PREFIX = 8


@dataclass(frozen=True)
class Place:
    """Where a tensor lies in a file: its first byte from the beginning, its dtype and shape."""

    begin: int
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def end(self) -> int:
        """The byte after its last."""
        return self.begin + prod(self.shape) * self.dtype.itemsize

    def of(self, file: Tensor) -> Tensor:
        """The tensor as a view of the file's bytes."""
        return file[self.begin : self.end].view(self.dtype).view(self.shape)


@dataclass(frozen=True)
class Layout:
    """A file to be: its leading bytes, the places of its tensors, its size."""

    head: bytes
    places: dict[str, Place]
    size: int

    def start(self, file: Tensor) -> None:
        """Write the leading bytes into a file's bytes."""
        file[: len(self.head)].copy_(torch.frombuffer(bytearray(self.head), dtype=torch.uint8))


def lay_out(tensors: Mapping[str, tuple[torch.dtype, Sequence[int]]]) -> Layout:
    """The file of tensors with these names, dtypes and shapes; wide dtypes come first, so that all lie aligned."""
    ordered = sorted(tensors.items(), key=lambda item: -item[1][0].itemsize)
    places, end = {}, 0
    for name, (dtype, shape) in ordered:
        places[name] = Place(end, dtype, tuple(shape))
        end = places[name].end
    header = json.dumps(
        {
            name: {"dtype": _NAMES[place.dtype], "shape": list(place.shape), "data_offsets": [place.begin, place.end]}
            for name, place in places.items()
        }
    ).encode()
    header += b" " * (-len(header) % _PREFIX)
    first = _PREFIX + len(header)
    moved = {name: Place(first + place.begin, place.dtype, place.shape) for name, place in places.items()}
    return Layout(len(header).to_bytes(_PREFIX, "little") + header, moved, first + end)
