"""Which global sample positions a micro-step owns, and which of them a rank takes.

Step s of global batch G owns positions [s·G, (s+1)·G); micro-step k of A takes the k-th contiguous G/A of them; rank r of W
takes those with position mod W = r. So the stream of samples does not depend on W, and resuming is a step number.

A position holds one volume, or several rows: views of it, contrasts of its session. A row has its own number, and view 0 of
slot 0 has the position's, so that asking for more leaves what was there as it was:

    row = position + 2^40 · view + 2^48 · slot
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mri_fm.errors import UserError

POSITION_BITS, VIEW_BITS = 40, 8


class Row(NamedTuple):
    """One volume of a position: view `view` of contrast slot `slot`."""

    position: int
    slot: int
    view: int


def row_number(row: Row) -> int:
    """The number of a row, below 2^63 for slots below 2^15."""
    return row.position + (row.view << POSITION_BITS) + (row.slot << (POSITION_BITS + VIEW_BITS))


def row_of(number: int) -> Row:
    """Reverse of `row_number`."""
    rest, position = divmod(number, 1 << POSITION_BITS)
    slot, view = divmod(rest, 1 << VIEW_BITS)
    return Row(position, slot, view)


def check_batch(global_batch: int, accumulation: int, world: int, *, sequence: int = 1) -> None:
    """Check that every rank gets the same number of samples in every micro-step.

    Args:
        global_batch: samples of an optimizer step.
        accumulation: micro-steps of it.
        world: ranks that take other samples.
        sequence: ranks that take the same ones, for each of these.

    Raises:
        UserError: `global_batch` does not divide by accumulation · world; the nearest sizes that do are named.
    """
    unit = accumulation * world
    below = global_batch // unit * unit
    if global_batch % unit or global_batch < unit:
        fitting = f"{below} or {below + unit}" if below else f"{unit}"
        ranks = f"{world} ranks" if sequence == 1 else f"{world} groups of {sequence} ranks"
        raise UserError(
            f"train.global_batch={global_batch} does not divide by {accumulation} micro-steps x {ranks}: "
            f"set train.global_batch={fitting}, or another multiple of {unit}"
        )


def micro_positions(step: int, micro: int, *, global_batch: int, accumulation: int) -> np.ndarray:
    """Global positions of micro-step `micro` of optimizer step `step`, int64 (global_batch / accumulation,)."""
    count = global_batch // accumulation
    first = step * global_batch + micro * count
    return np.arange(first, first + count, dtype=np.int64)


def rank_positions(step: int, micro: int, *, global_batch: int, accumulation: int, rank: int, world: int) -> np.ndarray:
    """The part of `micro_positions` that `rank` takes: those with position mod world = rank, ascending."""
    positions = micro_positions(step, micro, global_batch=global_batch, accumulation=accumulation)
    return positions[positions % world == rank]
