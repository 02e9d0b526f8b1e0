import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mri_fm.masking import (
    KINDS,
    Blocks,
    MaskDraw,
    count_hidden,
    draw_blocks,
    multiblock_mask,
    random_mask,
    tube_mask,
    uniform_mask,
)
from tests.distributed import run_ranks

TOKENS = st.integers(2, 200)
RATIOS = st.floats(0.0, 1.0)
SEEDS = st.integers(0, 2**63)
POSITIONS = st.lists(st.integers(0, 2**62), min_size=1, max_size=5)
GRIDS = st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 7)).filter(lambda grid: math.prod(grid) > 1)
KIND = st.sampled_from(KINDS)

TUBES = [[1, 2, 4, 7, 8, 10], [1, 2, 3, 7, 8, 9]]
BLOCKS = [[2, 3, 8, 9, 10, 11], [0, 1, 2, 3, 6, 8]]


def draw(kind, grid, ratio, positions, *, seed=0, blocks=Blocks(), **options):  # noqa: B008
    """Masks of any kind through one door."""
    how = MaskDraw(seed, torch.as_tensor(positions), **options)
    if kind == "multiblock":
        return multiblock_mask(grid, ratio, how, blocks)
    return {"random": uniform_mask, "tube": tube_mask}[kind](grid, ratio, how)


def as_volumes(hidden_BM, grid):
    """Hidden tokens as bool (B, Z, Y, X)."""
    return torch.zeros(len(hidden_BM), math.prod(grid), dtype=torch.bool).scatter(1, hidden_BM, True).view(-1, *grid)


@st.composite
def block_options(draw_from):
    def between(low, high):
        return tuple(sorted(draw_from(st.tuples(st.floats(low, high), st.floats(low, high)))))

    return Blocks(draw_from(st.integers(1, 9)), between(0.01, 1.0), between(0.1, 8.0), between(0.01, 1.0))


@given(TOKENS, RATIOS, SEEDS, POSITIONS, st.booleans())
def test_masks_are_exact_ascending_disjoint_and_complete(num_tokens, ratio, seed, positions, shared):
    visible_BV, hidden_BM = random_mask(
        num_tokens, ratio, seed=seed, positions_B=torch.tensor(positions), shared=shared, group_position=positions[0]
    )
    expected = min(max(math.floor(ratio * num_tokens + 0.5), 1), num_tokens - 1)
    assert hidden_BM.shape == (len(positions), expected)
    assert visible_BV.shape == (len(positions), num_tokens - expected)
    assert visible_BV.dtype == hidden_BM.dtype == torch.int64
    for index in (visible_BV, hidden_BM):
        assert (index.diff(dim=1) > 0).all()
    union = torch.cat([visible_BV, hidden_BM], dim=1).sort(dim=1).values
    assert (union == torch.arange(num_tokens)).all()


@given(TOKENS, RATIOS, SEEDS, POSITIONS)
def test_a_row_depends_on_its_position_alone(num_tokens, ratio, seed, positions):
    _, together_BM = random_mask(num_tokens, ratio, seed=seed, positions_B=torch.tensor(positions))
    for row, position in enumerate(positions):
        _, alone_1M = random_mask(num_tokens, ratio, seed=seed, positions_B=torch.tensor([position]))
        assert together_BM[row].equal(alone_1M[0])


@given(TOKENS, RATIOS, SEEDS, st.integers(0, 2**62), POSITIONS, POSITIONS)
def test_a_shared_mask_depends_on_the_group_position_alone(num_tokens, ratio, seed, group, some, others):
    masks = [
        random_mask(num_tokens, ratio, seed=seed, positions_B=torch.tensor(p), shared=True, group_position=group)[1]
        for p in (some, others)
    ]
    assert all((rows == masks[0][0]).all() for rows in masks)
    alone = random_mask(num_tokens, ratio, seed=seed, positions_B=torch.tensor([group]))[1]
    assert alone[0].equal(masks[0][0])


@pytest.mark.parametrize(
    ("num_tokens", "ratio", "hidden"),
    [(8, 0.75, 6), (2, 0.25, 1), (10, 0.25, 3), (10, 0.35, 4), (2, 0.0, 1), (2, 1.0, 1), (8000, 0.75, 6000)],
)
def test_halves_are_rounded_up_and_neither_part_is_empty(num_tokens, ratio, hidden):
    assert random_mask(num_tokens, ratio, seed=0, positions_B=torch.arange(1))[1].shape[1] == hidden


def test_every_token_is_hidden_equally_often():
    draws = 4000
    _, hidden_BM = random_mask(16, 0.75, seed=3, positions_B=torch.arange(draws))
    share = torch.bincount(hidden_BM.flatten(), minlength=16) / draws
    standard_error = math.sqrt(0.75 * 0.25 / draws)
    assert (share - 0.75).abs().max() < 5 * standard_error


def test_pairs_of_tokens_are_hidden_independently():
    draws = 4000
    _, hidden_BM = random_mask(16, 0.5, seed=4, positions_B=torch.arange(draws))
    is_hidden = torch.zeros(draws, 16).scatter(1, hidden_BM, 1.0)
    together = is_hidden.T @ is_hidden / draws
    pairs = together[~torch.eye(16, dtype=torch.bool)]
    assert (pairs - 0.5 * 7 / 15).abs().max() < 5 * math.sqrt(0.25 / draws)


def test_seed_and_position_change_the_mask():
    first = random_mask(64, 0.5, seed=0, positions_B=torch.tensor([0, 1]))[1]
    assert not first[0].equal(first[1])
    assert not first[0].equal(random_mask(64, 0.5, seed=1, positions_B=torch.tensor([0]))[1][0])


def test_masks_do_not_touch_the_global_generator():
    before = torch.get_rng_state()
    random_mask(64, 0.5, seed=0, positions_B=torch.arange(4))
    assert torch.get_rng_state().equal(before)


def test_pinned_mask():
    """A run must resume under the masks it began with, in every later version."""
    _, hidden_BM = random_mask(12, 0.5, seed=5, positions_B=torch.tensor([0, 7]))
    assert hidden_BM.tolist() == [[2, 6, 8, 9, 10, 11], [1, 2, 3, 7, 8, 10]]


@pytest.mark.parametrize(("num_tokens", "ratio"), [(1, 0.5), (0, 0.5), (8, -0.01), (8, 1.01), (8, float("nan"))])
def test_impossible_masks_are_refused(num_tokens, ratio):
    with pytest.raises(ValueError, match=r"tokens cannot be split|not in \[0, 1\]"):
        random_mask(num_tokens, ratio, seed=0, positions_B=torch.arange(1))


def test_a_shared_mask_without_group_position_is_refused():
    with pytest.raises(ValueError, match="group_position"):
        random_mask(8, 0.5, seed=0, positions_B=torch.arange(1), shared=True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", KINDS)
def test_the_gpu_draws_the_same_masks(kind):
    cpu, gpu = (draw(kind, (8, 8, 8), 0.75, torch.arange(8, device=device), seed=1) for device in ("cpu", "cuda"))
    assert all(a.equal(b.cpu()) and b.is_cuda for a, b in zip(cpu, gpu, strict=True))


@given(KIND, GRIDS, RATIOS, SEEDS, POSITIONS, st.integers(0, 3), st.booleans(), block_options())
def test_every_kind_is_exact_ascending_disjoint_and_complete(kind, grid, ratio, seed, positions, index, shared, blocks):
    visible_BV, hidden_BM = draw(
        kind, grid, ratio, positions, seed=seed, blocks=blocks, set_index=index, shared=shared, group_position=positions[-1]
    )
    num_tokens = math.prod(grid)
    assert hidden_BM.shape == (len(positions), count_hidden(num_tokens, ratio))
    assert visible_BV.dtype == hidden_BM.dtype == torch.int64
    assert all((part.diff(dim=1) > 0).all() for part in (visible_BV, hidden_BM))
    union = torch.cat([visible_BV, hidden_BM], dim=1).sort(dim=1).values
    assert (union == torch.arange(num_tokens)).all()


@given(KIND, GRIDS, RATIOS, SEEDS, POSITIONS, st.integers(0, 3), st.booleans())
def test_every_kind_depends_on_position_set_and_foreground_alone(kind, grid, ratio, seed, positions, index, masked):
    foreground_BN = torch.rand(len(positions), math.prod(grid)) < 0.5 if masked else None
    options = {"seed": seed, "set_index": index, "foreground_visible": 0.2}
    together = draw(kind, grid, ratio, positions, foreground_BN=foreground_BN, **options)
    for row, position in enumerate(positions):
        mine = None if foreground_BN is None else foreground_BN[row : row + 1]
        alone = draw(kind, grid, ratio, [position], foreground_BN=mine, **options)
        assert all(a[row].equal(b[0]) for a, b in zip(together, alone, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_sets_and_seeds_differ_and_set_0_is_the_plain_mask(kind):
    grid = (4, 6, 6)
    sets = [draw(kind, grid, 0.5, [3, 9], set_index=index)[1] for index in range(3)]
    assert sets[0].equal(draw(kind, grid, 0.5, [3, 9])[1])
    assert not any(sets[a].equal(sets[b]) for a, b in ((0, 1), (0, 2), (1, 2)))
    assert not sets[0].equal(draw(kind, grid, 0.5, [3, 9], seed=1)[1])


@pytest.mark.parametrize("kind", KINDS)
def test_shared_masks_are_equal_on_all_ranks(kind):
    def work(rank: int) -> list[list[int]]:
        return draw(kind, (3, 4, 5), 0.6, [8 + rank, 10 + rank], shared=True, group_position=8, set_index=1)[1].tolist()

    first, second = run_ranks(work, 2)
    assert first == second
    assert first[0] == first[1]


@given(GRIDS, RATIOS, SEEDS, POSITIONS)
def test_tubes_run_from_end_to_end_but_for_one(grid, ratio, seed, positions):
    hidden_BZYX = as_volumes(draw("tube", grid, ratio, positions, seed=seed)[1], grid)
    length_BYX = hidden_BZYX.sum(1)
    for lengths in length_BYX.flatten(1):
        assert ((lengths > 0) & (lengths < grid[0])).sum() <= 1
    assert (hidden_BZYX.int().diff(dim=1) <= 0).all()


def test_every_column_is_a_tube_equally_often():
    draws, grid = 3000, (2, 3, 4)
    share = as_volumes(draw("tube", grid, 0.5, list(range(draws)))[1], grid).float().mean(0)
    assert (share - 0.5).abs().max() < 5 * math.sqrt(0.25 / draws)


@given(GRIDS, SEEDS, st.integers(0, 2**62), block_options())
def test_blocks_have_the_drawn_size_and_lie_inside(grid, seed, position, blocks):
    start_1K3, extent_1K3 = draw_blocks(grid, blocks, MaskDraw(seed, torch.tensor([position])))
    assert start_1K3.shape == (1, blocks.count, 3)
    assert (start_1K3 >= 0).all()
    assert (extent_1K3 >= 1).all()
    assert (start_1K3 + extent_1K3 <= torch.tensor(grid)).all()
    area = [share * grid[1] * grid[2] for share in blocks.scale]
    ranges = [
        [share * grid[0] for share in blocks.depth],
        [math.sqrt(area[i] * blocks.aspect[i]) for i in (0, 1)],
        [math.sqrt(area[i] / blocks.aspect[1 - i]) for i in (0, 1)],
    ]
    for axis, (low, high) in enumerate(ranges):
        extents = extent_1K3[0, :, axis]
        assert (extents >= min(grid[axis], max(1, math.floor(low)))).all()
        assert (extents <= min(grid[axis], max(1, math.ceil(high)))).all()


@given(GRIDS, SEEDS, st.integers(0, 2**62), block_options(), st.integers(0, 2))
def test_hidden_tokens_are_the_union_of_the_blocks_where_its_size_is_asked_for(grid, seed, position, blocks, index):
    starts, extents = draw_blocks(grid, blocks, MaskDraw(seed, torch.tensor([position]), set_index=index))
    union = torch.zeros(grid, dtype=torch.bool)
    for (z, y, x), (dz, dy, dx) in zip(starts[0].tolist(), extents[0].tolist(), strict=True):
        union[z : z + dz, y : y + dy, x : x + dx] = True
    num_tokens, size = math.prod(grid), int(union.sum())
    if size in (0, num_tokens):
        return
    _, hidden_BM = draw("multiblock", grid, size / num_tokens, [position], seed=seed, blocks=blocks, set_index=index)
    assert as_volumes(hidden_BM, grid)[0].equal(union)


@pytest.mark.parametrize("ratio", [0.05, 0.3, 0.75])
def test_a_mask_of_blocks_has_fewer_borders_than_a_random_one(ratio):
    def borders(kind):
        volumes = as_volumes(draw(kind, (12, 12, 12), ratio, list(range(20)))[1], (12, 12, 12)).int()
        return sum(volumes.diff(dim=axis).abs().sum().item() for axis in (1, 2, 3))

    assert borders("multiblock") < 0.6 * borders("random")


def test_blocks_of_full_depth_are_tubes_in_every_plane():
    blocks = Blocks(4, (0.1, 0.2), (0.75, 1.5), (1.0, 1.0))
    hidden_BZYX = as_volumes(draw("multiblock", (5, 10, 10), 0.4, list(range(8)), blocks=blocks)[1], (5, 10, 10))
    partial = (hidden_BZYX != hidden_BZYX[:, :1]).any(1)  # only the outermost shell, which chance completes
    assert partial.float().mean() < 0.3


@given(KIND, GRIDS, RATIOS, SEEDS, POSITIONS, st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_background_is_hidden_last(kind, grid, ratio, seed, positions, share, keep):
    num_tokens = math.prod(grid)
    foreground_BN = torch.rand(len(positions), num_tokens, generator=torch.Generator().manual_seed(seed % 1000)) < share
    visible_BV, hidden_BM = draw(kind, grid, ratio, positions, seed=seed, foreground_BN=foreground_BN, foreground_visible=keep)
    union = torch.cat([visible_BV, hidden_BM], dim=1).sort(dim=1).values
    assert (union == torch.arange(num_tokens)).all()
    assert all((part.diff(dim=1) > 0).all() for part in (visible_BV, hidden_BM))
    hidden, visible = hidden_BM.shape[1], visible_BV.shape[1]
    for row in range(len(positions)):
        foreground = int(foreground_BN[row].sum())
        may_be_hidden = foreground - math.floor(keep * foreground + 0.5)
        expected = max(min(hidden, may_be_hidden), foreground - visible)
        assert foreground_BN[row, hidden_BM[row]].sum() == expected
        if keep == 0 and foreground >= hidden:
            assert foreground_BN[row, hidden_BM[row]].all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [True, False])
def test_a_volume_all_foreground_or_all_background_gets_the_plain_mask(kind, value):
    grid = (4, 5, 6)
    foreground_BN = torch.full((3, math.prod(grid)), value)
    plain = draw(kind, grid, 0.6, [0, 1, 2])[1]
    assert draw(kind, grid, 0.6, [0, 1, 2], foreground_BN=foreground_BN)[1].equal(plain)


@given(st.sampled_from(["tube", "multiblock"]), GRIDS, RATIOS, SEEDS, POSITIONS, st.integers(2, 50), st.booleans())
def test_among_kept_tokens_the_order_is_the_same(kind, grid, ratio, seed, positions, budget, masked):
    num_tokens = math.prod(grid)
    budget = min(budget, num_tokens)
    generator = torch.Generator().manual_seed(seed % 1000)
    kept_BK = torch.rand(len(positions), num_tokens, generator=generator).argsort(dim=1)[:, :budget].sort(dim=1).values
    foreground_BN = torch.rand(len(positions), num_tokens, generator=generator) < 0.5 if masked else None
    options = {"seed": seed, "foreground_BN": foreground_BN}
    visible_BV, hidden_BM = draw(kind, grid, ratio, positions, kept_BK=kept_BK, **options)
    assert hidden_BM.shape[1] == count_hidden(budget, ratio)
    assert (torch.cat([visible_BV, hidden_BM], dim=1).sort(dim=1).values == torch.arange(budget)).all()
    everything = torch.arange(num_tokens).expand(len(positions), -1)
    whole = draw(kind, grid, ratio, positions, kept_BK=everything, **options)
    assert all(a.equal(b) for a, b in zip(whole, draw(kind, grid, ratio, positions, **options), strict=True))
    if not masked and len(positions) == 1:
        fewer = draw(kind, grid, 0.0, positions, kept_BK=kept_BK, **options)[1]
        assert fewer[0, 0] in hidden_BM[0]


@pytest.mark.parametrize("kind", KINDS)
def test_drawing_needs_no_word_from_the_host(kind):
    meta = torch.device("meta")
    foreground_BN = torch.empty(2, 24, dtype=torch.bool, device=meta)
    for foreground in (None, foreground_BN):
        positions_B = torch.empty(2, dtype=torch.int64, device=meta)
        _, hidden_BM = draw(kind, (2, 3, 4), 0.5, positions_B, foreground_BN=foreground)
        assert hidden_BM.shape == (2, 12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 0}, "at least 1"),
        ({"scale": (0.0, 0.2)}, "scale"),
        ({"scale": (0.3, 0.2)}, "scale"),
        ({"aspect": (1.0, math.inf)}, "aspect"),
        ({"depth": (0.5, 1.1)}, "depth"),
    ],
)
def test_blocks_that_cannot_be_drawn_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Blocks(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"set_index": -1}, "numbered from 0"),
        ({"foreground_visible": 1.5}, "visible share"),
        ({"shared": True, "group_position": 0, "foreground_BN": torch.ones(1, 8, dtype=torch.bool)}, "differs from sample"),
    ],
)
def test_contradictory_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        draw("tube", (2, 2, 2), 0.5, [0], **options)


def test_pinned_structured_masks():
    """As `test_pinned_mask`, for the other kinds."""
    assert draw("tube", (2, 2, 3), 0.5, [0, 7], seed=5)[1].tolist() == TUBES
    assert draw("multiblock", (2, 2, 3), 0.5, [0, 7], seed=5, blocks=Blocks(count=2))[1].tolist() == BLOCKS
