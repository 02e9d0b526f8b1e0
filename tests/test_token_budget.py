import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mri_fm.masking import keep_tokens
from mri_fm.token_budget import count_kept, lost_share, needed_share


@settings(deadline=None, max_examples=60)
@given(st.data(), st.integers(2, 60), st.integers(0, 2**40), st.integers(0, 2**31))
def test_foreground_comes_first_and_all_of_it_where_it_fits(data, tokens, position, seed):
    budget = data.draw(st.integers(1, tokens))
    foreground_N = torch.tensor(data.draw(st.lists(st.booleans(), min_size=tokens, max_size=tokens)))
    (kept_K,) = keep_tokens(foreground_N[None], budget, seed=seed, positions_B=torch.tensor([position]))
    assert kept_K.tolist() == sorted(set(kept_K.tolist()))
    assert len(kept_K) == budget
    assert int(foreground_N[kept_K].sum()) == min(budget, int(foreground_N.sum()))


def test_which_tokens_depends_on_the_position_and_not_on_the_batch():
    foreground_BN = torch.rand(4, 50, generator=torch.Generator().manual_seed(0)) < 0.6
    positions_B = torch.tensor([5, 9, 5, 2])
    kept_BK = keep_tokens(foreground_BN, 20, seed=1, positions_B=positions_B)
    for b in range(4):
        alone = keep_tokens(foreground_BN[b : b + 1], 20, seed=1, positions_B=positions_B[b : b + 1])
        assert kept_BK[b].equal(alone[0])
    assert not kept_BK[0].equal(kept_BK[1])


def test_every_foreground_token_is_as_likely_to_be_kept():
    """No preference by place: over many positions each of 40 foreground tokens is kept half the time."""
    foreground_BN = (torch.arange(60) < 40).expand(4000, 60)
    kept_BK = keep_tokens(foreground_BN, 20, seed=3, positions_B=torch.arange(4000))
    frequency = torch.bincount(kept_BK.flatten(), minlength=60)[:40] / 4000
    assert torch.all((frequency - 0.5).abs() < 5 * 0.5 / 4000**0.5)


def test_the_share_needed_and_the_share_lost():
    foreground_S = np.array([10] * 95 + [40] * 5)
    assert needed_share(foreground_S, 100) == pytest.approx(0.12, abs=0.01)
    assert lost_share(foreground_S, 40) == 0
    assert lost_share(foreground_S, 20) == pytest.approx(5 * 20 / (950 + 200))
    assert needed_share(np.zeros(3, dtype=int), 100) == 0.02
    assert (count_kept(256, 0.45), count_kept(256, 1.0), count_kept(256, 0.001)) == (115, 256, 2)
