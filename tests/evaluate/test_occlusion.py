"""Covering a planted lesion takes the score away, covering anything else does not.

Axes: C channels, Z/Y/X voxels or patches, K blocks, N patches.
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mri_fm.evaluate.occlusion import MOST_BLOCKS, SIZES, block_sizes, occlude, score_drops

GRID, PATCH = (4, 6, 5), (4, 4, 4)
LESION = (1, 4, 3)  # the patch that holds it


def head() -> tuple[torch.Tensor, torch.Tensor]:
    """Noise inside a ball, the background -2, and a lesion that fills one patch."""
    generator = torch.Generator().manual_seed(0)
    x_CZYX = torch.randn(1, 16, 24, 20, generator=generator)
    grid = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in x_CZYX.shape[1:]), indexing="ij")
    inside_CZYX = (sum(axis**2 for axis in grid) < 1.2)[None]  # type: ignore[union-attr]
    x_CZYX[~inside_CZYX] = -2.0
    place = (slice(None), *(slice(at * p, (at + 1) * p) for at, p in zip(LESION, PATCH, strict=True)))
    assert bool(inside_CZYX[place].all())
    x_CZYX[place] += 5
    return x_CZYX, inside_CZYX


def brightest(x_BCZYX: torch.Tensor) -> torch.Tensor:
    """What a probe of the lesion reads: the brightest patch mean."""
    return torch.nn.functional.avg_pool3d(x_BCZYX, PATCH).flatten(1).amax(dim=1, keepdim=True)


@pytest.mark.parametrize("batch_size", [1, 7])
def test_the_score_falls_most_where_the_lesion_is(batch_size: int) -> None:
    x_CZYX, inside_CZYX = head()
    sizes = block_sizes(GRID)
    score, drops = score_drops(x_CZYX, inside_CZYX, sizes, PATCH, brightest, lambda f_BF: 2 * f_BF[:, 0], batch_size=batch_size)
    assert score == pytest.approx(2 * float(brightest(x_CZYX[None])), rel=1e-6)
    lesion = (LESION[0] * GRID[1] + LESION[1]) * GRID[2] + LESION[2]
    place_N3 = torch.cartesian_prod(*(torch.arange(n) for n in GRID))
    apart_N = (place_N3 - torch.tensor(LESION)).abs().amax(dim=1)
    for blocks, drop_N in zip(sizes, drops, strict=True):
        assert float(drop_N[lesion]) == pytest.approx(float(drop_N.max()), rel=0.01)
        assert float(drop_N[lesion]) > 6
        assert float(drop_N[apart_N >= blocks.edge].abs().max()) == 0  # no block covers both; others are not the brightest
    assert int(drops[0].argmax()) == lesion


@given(st.tuples(*[st.integers(1, 24)] * 3))
@settings(max_examples=60, deadline=None)
def test_blocks_of_every_size_cover_the_grid_and_are_bounded(grid: tuple[int, int, int]) -> None:
    sizes = block_sizes(grid)
    assert 1 <= len(sizes) <= SIZES
    assert [b.edge for b in sizes] == sorted({b.edge for b in sizes})
    for blocks in sizes:
        assert 1 <= len(blocks.start_K) == len(set(blocks.start_K)) <= MOST_BLOCKS
        assert bool(blocks.mean_of_covering([1.0] * len(blocks.start_K)).eq(1).all())
    if math.prod(grid) <= MOST_BLOCKS:
        assert (sizes[0].edge, len(sizes[0].start_K)) == (1, math.prod(grid))


def test_a_patch_has_the_mean_of_the_blocks_that_cover_it() -> None:
    blocks = next(b for b in block_sizes((1, 1, 4)) if b.edge == 2)
    assert blocks.start_K == ((0, 0, 0), (0, 0, 1), (0, 0, 2))
    assert blocks.mean_of_covering([1.0, 3.0, 8.0]).tolist() == [1.0, 2.0, 5.5, 8.0]


def test_only_the_foreground_of_a_block_becomes_its_mean() -> None:
    x_CZYX, inside_CZYX = head()
    blocks = block_sizes(GRID)[0]
    mean, seen = float(x_CZYX[inside_CZYX].mean()), 0
    for number, covered_CZYX in occlude(x_CZYX, inside_CZYX, blocks, PATCH):
        place = (slice(None), *blocks.slices(blocks.start_K[number], PATCH))
        assert covered_CZYX[place][inside_CZYX[place]].sub(mean).abs().max() < 1e-5
        assert bool((covered_CZYX[~inside_CZYX] == -2).all())
        changed_CZYX = covered_CZYX != x_CZYX
        changed_CZYX[place] = False
        assert not bool(changed_CZYX.any())
        seen += 1
    assert 0 < seen < len(blocks.start_K)  # blocks of background alone cost nothing
