"""How much shared memory the loader's workers need, and whether /dev/shm has it: a worker that finds it full dies of SIGBUS."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from math import prod
from pathlib import Path

from mri_fm.errors import UserError

SHARED_MEMORY = Path("/dev/shm")
_VOXEL_BYTES = 2
_BESIDE = 64 << 10  # parameters, status, and DALI's own record of them
_KEPT = 2  # batches beside those in the queue: one is being read, one is being copied
_MIB = 1 << 20


def sample_bytes(shape: Sequence[int]) -> int:
    """What the source returns for a volume of `shape`, at most."""
    return _VOXEL_BYTES * prod(shape) + _BESIDE


def needed_bytes(shapes: Iterable[Sequence[int]], *, batch_size: int, prefetch: int) -> int:
    """Shared memory of one rank's workers: (`prefetch` + 2) batches of the largest volume."""
    return (prefetch + _KEPT) * batch_size * max(map(sample_bytes, shapes))


def check_shared_memory(needed: int, local_ranks: int, place: Path = SHARED_MEMORY) -> None:
    """Check that a node has room for the workers of all its ranks.

    Args:
        needed: bytes of one rank.
        local_ranks: ranks on this node.
        place: where shared memory is mounted.

    Raises:
        UserError: there is less.
    """
    total = needed * local_ranks
    state = os.statvfs(place)
    free = state.f_bavail * state.f_frsize
    if free < total:
        raise UserError(
            f"data.workers need {_mib(total)} MiB of shared memory on this node and {place} has {_mib(free)} MiB: enlarge it "
            f"(docker run --shm-size={_mib(total)}m, in Kubernetes an emptyDir of medium Memory at {place}), "
            "take fewer samples per rank, or set data.workers=0"
        )


def _mib(size: int) -> int:
    return -(-size // _MIB)
