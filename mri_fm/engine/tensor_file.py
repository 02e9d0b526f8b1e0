"""Tensors in a file of the safetensors layout, read and written in place.

The layout (huggingface.co/docs/safetensors, "Format"): 8 bytes with the header's length, little-endian; a JSON header with
dtype, shape and byte range of each tensor; the bytes of the tensors without gaps. The safetensors library writes whole files
from tensors; here a file is first laid out in shared memory and filled there, and read by ranges.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

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
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}
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


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write whole tensors to a new file."""
    layout = lay_out({name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()})
    file = torch.empty(layout.size, dtype=torch.uint8)
    layout.start(file)
    for name, place in layout.places.items():
        place.of(file).copy_(tensors[name])
    file.numpy().tofile(path)


class TensorFile:
    """A file's tensors, mapped into memory and read where they are looked at."""

    def __init__(self, path: Path) -> None:
        """Read the header."""
        with path.open("rb") as file:
            length = int.from_bytes(file.read(_PREFIX), "little")
            header = json.loads(file.read(length))
        first = _PREFIX + length
        header.pop("__metadata__", None)
        self.places = {
            name: Place(first + entry["data_offsets"][0], _DTYPES[entry["dtype"]], tuple(entry["shape"]))
            for name, entry in header.items()
        }
        self._bytes = torch.from_file(str(path), shared=False, size=path.stat().st_size, dtype=torch.uint8)

    def __getitem__(self, name: str) -> Tensor:
        """The tensor of a name; a private view of the file."""
        return self.places[name].of(self._bytes)
