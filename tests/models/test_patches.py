import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mri_fm.models.patches import patch_grid, patchify, take_tokens, unpatchify

THREE = st.tuples(*[st.integers(1, 4)] * 3)


@settings(max_examples=30)
@given(THREE, THREE, st.integers(1, 3), st.integers(1, 2))
def test_unpatchify_inverts_patchify_exactly(grid, patch, batch, channels):
    size = tuple(g * p for g, p in zip(grid, patch, strict=True))
    x = torch.arange(batch * channels * size[0] * size[1] * size[2], dtype=torch.float64).reshape(batch, channels, *size)
    patches_BNP = patchify(x, patch)
    assert patches_BNP.shape == (batch, np.prod(grid), channels * np.prod(patch))
    assert unpatchify(patches_BNP, patch, size).equal(x)


def test_patches_are_in_raster_order_and_hold_their_own_block():
    x = torch.randn(2, 2, 4, 6, 8)
    patches_BNP = patchify(x, (2, 3, 4))
    for n, (z, y, x0) in enumerate(np.ndindex(2, 2, 2)):
        block = x[1, :, 2 * z : 2 * z + 2, 3 * y : 3 * y + 3, 4 * x0 : 4 * x0 + 4]
        assert patches_BNP[1, n].equal(block.flatten())


@pytest.mark.parametrize("patch", [(3, 2, 2), (0, 2, 2), (-2, 2, 2), (8, 2, 2)])
def test_a_patch_that_does_not_divide_is_refused(patch):
    with pytest.raises(ValueError, match="does not divide"):
        patch_grid((4, 4, 4), patch)


def test_take_tokens_is_indexing_per_sample():
    tokens_BND, index_BK = torch.randn(2, 5, 3), torch.tensor([[0, 4], [2, 3]])
    taken = take_tokens(tokens_BND, index_BK)
    assert taken[0].equal(tokens_BND[0, [0, 4]])
    assert taken[1].equal(tokens_BND[1, [2, 3]])
