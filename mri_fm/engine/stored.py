"""A checkpoint's tensors, read by name and range, whatever the number of ranks and the ZeRO stage that wrote them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mri_fm.engine.fragments import WEIGHT, Fragment
from mri_fm.engine.publication import META_FILE
from mri_fm.errors import UserError

FORMAT = 2


def rank_file(rank: int) -> str:
    """The file that a rank writes."""
    return f"rank-{rank:05d}.safetensors"


def fragment_key(fragment: Fragment) -> str:
    """A fragment's name in a file: what it is of, and where it starts."""
    return f"{fragment.kind}:{fragment.name}@{fragment.start}"


def read_meta(checkpoint: Path) -> dict[str, Any]:
    """The `meta.json` of a checkpoint: step, position, world, identity, …

    Raises:
        UserError: it was cut or altered, or has another format than this version's.
    """
    try:
        meta = dict(json.loads((checkpoint / META_FILE).read_bytes()))
    except (ValueError, TypeError) as error:
        raise UserError(f"{checkpoint / META_FILE} was cut or altered") from error
    if meta.get("format") != FORMAT:
        raise UserError(f"{checkpoint} was written by another version of this code; take another run.dir, or that version")
    return meta


class Stored:
    """The files of a checkpoint; assumed verified."""

    def __init__(self, checkpoint: Path) -> None:
        """Read the headers of all files.

        Raises:
            UserError: one is no safetensors file.
        """
        self.checkpoint, self.meta = checkpoint, read_meta(checkpoint)
        self.optimizer_step = int(self.meta["optimizer_step"])
        self._parts: dict[tuple[str, str], list[tuple[int, int, Any]]] = {}  # start, end, values
        for path in sorted(checkpoint.glob("rank-*.safetensors")):
            try:
                self._index(safe_open(path, framework="pt"))
            except (SafetensorError, ValueError) as error:
                raise UserError(f"{path} is no safetensors file ({error}); nothing else is read as a checkpoint") from error

    def _index(self, file: Any) -> None:
        for key in file.keys():  # noqa: SIM118  a file, not a dict
            tensor, _, start = key.rpartition("@")
            kind, _, name = tensor.partition(":")
            values_N = file.get_slice(key)  # mapped into memory, and read where it is indexed
            part = (int(start), int(start) + prod(values_N.get_shape()), values_N)
            self._parts.setdefault((kind, name), []).append(part)

    def read(self, kind: str, name: str, start: int, size: int) -> Tensor:
        """Elements [start, start + size) of a flattened parameter's weight or moment.

        Raises:
            UserError: the checkpoint does not have all of them; it is one of another model.
        """
        out_N, found = torch.empty(0), 0
        for begin, end, values_N in self._parts.get((kind, name), []):
            first, last = max(begin, start), min(end, start + size)
            if first < last:
                piece_N = values_N[first - begin : last - begin]
                out_N = out_N if found else torch.empty(size, dtype=piece_N.dtype)
                out_N[first - start : last - start] = piece_N
                found += last - first
        if found != size:
            raise UserError(f"{self.checkpoint} has {found} of {size} values of {name} ({kind}): it belongs to another model")
        return out_N

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """All weights, whole, in fp32 (integers as they are)."""
        for name, shape in self.meta["shapes"].items():
            tensor = self.read(WEIGHT, name, 0, prod(shape)).view(shape)
            yield name, tensor.float() if tensor.is_floating_point() else tensor
