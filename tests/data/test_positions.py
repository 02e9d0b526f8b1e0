import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mri_fm.data.positions import Row, check_batch, micro_positions, rank_positions, row_number, row_of
from mri_fm.errors import UserError


@given(st.integers(0, 10**9), st.integers(1, 5), st.integers(1, 8), st.integers(1, 6))
def test_ranks_and_micro_steps_share_out_a_step_exactly(step: int, per_rank: int, world: int, accumulation: int) -> None:
    batch = per_rank * world * accumulation
    size = {"global_batch": batch, "accumulation": accumulation}
    owned = []
    for micro in range(accumulation):
        positions = micro_positions(step, micro, **size)
        parts = [rank_positions(step, micro, **size, rank=rank, world=world) for rank in range(world)]
        assert all(len(part) == per_rank and (part % world == rank).all() for rank, part in enumerate(parts))
        assert np.array_equal(np.sort(np.concatenate(parts)), positions)
        owned.append(positions)
    assert np.array_equal(np.concatenate(owned), np.arange(step * batch, (step + 1) * batch))


@given(st.integers(1, 100), st.integers(1, 6), st.integers(1, 8))
def test_a_batch_that_does_not_divide_names_batches_that_do(batch: int, accumulation: int, world: int) -> None:
    unit = accumulation * world
    if batch % unit == 0:
        check_batch(batch, accumulation, world)
        return
    with pytest.raises(UserError, match=f"train.global_batch={batch} does not divide") as error:
        check_batch(batch, accumulation, world)
    named = re.search(r"set train.global_batch=(\d+)(?: or (\d+))?", str(error.value))
    assert named
    assert all(int(size) > 0 and int(size) % unit == 0 for size in named.groups() if size)


@given(st.integers(0, 2**40 - 1), st.integers(0, 2**15 - 1), st.integers(0, 255))
def test_rows_have_numbers_of_their_own(position: int, slot: int, view: int) -> None:
    row = Row(position, slot, view)
    assert row_of(row_number(row)) == row
    assert 0 <= row_number(row) < 2**63
    assert row_number(Row(position, 0, 0)) == position
