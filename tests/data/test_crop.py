import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mri_fm.config import AugmentConfig
from mri_fm.data.crop import held_by_start, hold_foreground
from mri_fm.data.params import SampleParams, draw_params

seeds = st.integers(0, 2**31)
SHAPE = (10, 30, 20)  # y is cut to 20 where z is the depth


def drawn(position: int, shape: tuple[int, ...] = SHAPE) -> SampleParams:
    return draw_params(shape, (8, 8, 8), AugmentConfig(), seed=1, position=position)


def blob(low: int, high: int) -> np.ndarray:
    voxels = np.zeros(SHAPE, np.int16)
    voxels[2:8, low:high, 3:17] = 7
    return voxels


def held(params: SampleParams, voxels: np.ndarray) -> float:
    inside = voxels[tuple(slice(s, s + e) for s, e in zip(params.start, params.extent, strict=True))]
    return np.count_nonzero(inside) / np.count_nonzero(voxels)


@given(seeds, st.integers(0, 1), st.integers(1, 30))
def test_foreground_is_counted_for_each_start(seed: int, axis: int, extent: int) -> None:
    voxels = (np.random.default_rng(seed).random((30, 31, 4)) < 0.2).astype(np.int16)
    counts = [np.count_nonzero(voxels.take(range(s, s + extent), axis)) for s in range(voxels.shape[axis] - extent + 1)]
    assert held_by_start(voxels, axis, extent).tolist() == counts


@given(st.integers(0, 10**6), st.integers(0, 11), st.sampled_from([0.3, 0.8, 1.0]))
def test_the_crop_holds_its_share(position: int, low: int, share: float) -> None:
    voxels, params = blob(low, low + 18), drawn(position)
    moved = hold_foreground(params, voxels, share, seed=1, row=position)
    assert held(moved, voxels) >= share
    assert moved.extent == params.extent
    assert all(0 <= s <= n - e for s, n, e in zip(moved.start, SHAPE, moved.extent, strict=True))
    if held(params, voxels) >= share:
        assert moved is params


def test_every_place_that_fits_is_used_and_no_other() -> None:
    fitting = {2, 3, 4, 5, 6}
    misplaced = [position for position in range(200) if drawn(position).start[1] not in fitting]
    assert {hold_foreground(drawn(p), blob(6, 22), 1.0, seed=1, row=p).start[1] for p in misplaced} == fitting


def test_more_than_any_crop_holds_gives_the_best_crop() -> None:
    voxels = np.ones(SHAPE, np.int16)
    voxels[:, :4] = 0
    for position in range(20):
        moved = hold_foreground(drawn(position), voxels, 0.9, seed=1, row=position)
        assert 4 <= moved.start[1] <= 10
        assert held(moved, voxels) == pytest.approx(20 / 26)


def test_what_cannot_move_stays() -> None:
    flat = drawn(0, (10, 20, 20))
    assert hold_foreground(flat, np.ones((10, 20, 20), np.int16), 1.0, seed=1, row=0) is flat
    assert hold_foreground(drawn(3), np.zeros(SHAPE, np.int16), 1.0, seed=1, row=3).start == drawn(3).start
