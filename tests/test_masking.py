import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mri_fm.masking import random_mask

TOKENS = st.integers(2, 200)
RATIOS = st.floats(0.0, 1.0)
SEEDS = st.integers(0, 2**63)
POSITIONS = st.lists(st.integers(0, 2**62), min_size=1, max_size=5)


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
def test_the_gpu_draws_the_same_masks():
    positions_B = torch.arange(8)
    cpu, gpu = (random_mask(512, 0.75, seed=1, positions_B=positions_B.to(d)) for d in ("cpu", "cuda"))
    assert all(a.equal(b.cpu()) and b.is_cuda for a, b in zip(cpu, gpu, strict=True))
