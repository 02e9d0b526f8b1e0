"""Attention as the encoder computes it, joined to cells without losing any, and the similarity of tokens.

Axes: N tokens, T registers and tokens, M cells, W registers and cells, H heads, E head width, D width.
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mri_fm.evaluate.attention_maps import Cells, attention_weights, rollout, similarity, softmax_weights
from mri_fm.models.layers import BlockOptions
from mri_fm.models.positions import Rope
from mri_fm.models.vit import VisionTransformer

GRID, PATCH = (2, 3, 4), (4, 4, 4)


def encoder(registers: int = 0) -> VisionTransformer:
    torch.manual_seed(0)
    options = BlockOptions(qk_norm=bool(registers))
    made = VisionTransformer((8, 12, 16), PATCH, 24, 3, 2, options=options, registers=registers, rope=Rope())
    with torch.no_grad():
        for block in made.blocks:
            block.attention.qkv.weight *= 30  # so that attention is far from even
    return made.eval()


def by_hand(network: VisionTransformer, x_CZYX: torch.Tensor) -> list[torch.Tensor]:
    """The softmax of the scores of every layer, from its own projections, float64 (H, T, T); its values give its output."""
    inputs: list[tuple[torch.Tensor, ...]] = []
    hooks = [b.attention.register_forward_pre_hook(lambda _, given: inputs.append(given)) for b in network.blocks]
    outputs: list[torch.Tensor] = []
    hooks += [b.attention.register_forward_hook(lambda _, __, out: outputs.append(out)) for b in network.blocks]
    with torch.no_grad():
        network(x_CZYX[None])
    for hook in hooks:
        hook.remove()
    found = []
    for block, (x_BTD, rotation, *_), out_BTD in zip(network.blocks, inputs, outputs, strict=True):
        layer = block.attention.double()
        q, k, v = layer.qkv(x_BTD.double())[0].unflatten(1, (3, layer.heads, -1)).permute(1, 2, 0, 3)
        q, k = (rotation.turn(norm(one)[None])[0] for norm, one in ((layer.norm_q, q), (layer.norm_k, k)))
        weight_HTT = (q @ k.mT / math.sqrt(q.shape[2])).softmax(dim=2)
        mixed_TD = (weight_HTT @ v).transpose(0, 1).flatten(1)
        torch.testing.assert_close(layer.out(mixed_TD).float(), out_BTD[0], rtol=1e-3, atol=1e-4)
        layer.float()
        found.append(weight_HTT.detach())
    return found


@pytest.mark.parametrize("registers", [0, 2])
def test_weights_are_those_that_torch_mixes_the_values_by(registers: int) -> None:
    network, x_CZYX = encoder(registers), torch.randn(1, 8, 12, 16, generator=torch.Generator().manual_seed(1))
    weight_LHWW, token_ND = attention_weights(network, x_CZYX, torch.ones(3), Cells.of_grid(GRID, PATCH))
    assert weight_LHWW.shape == (3, 2, registers + 24, registers + 24)
    torch.testing.assert_close(weight_LHWW.sum(dim=3), torch.ones(3, 2, registers + 24), rtol=0, atol=1e-5)
    for weight_HWW, expected_HTT in zip(weight_LHWW, by_hand(network, x_CZYX), strict=True):
        torch.testing.assert_close(weight_HWW, expected_HTT.float(), rtol=1e-4, atol=1e-5)
    assert float(weight_LHWW.max()) > 0.3  # not even, so that equality says something
    with torch.no_grad():
        torch.testing.assert_close(token_ND, network(x_CZYX[None])[0])


def test_weights_times_values_are_scaled_dot_product_attention() -> None:
    q_TE, k_TE, v_TE = torch.randn(3, 20, 8, generator=torch.Generator().manual_seed(2)).unbind(0)
    expected_TE = torch.nn.functional.scaled_dot_product_attention(q_TE[None], k_TE[None], v_TE[None])[0]
    torch.testing.assert_close(softmax_weights(q_TE, k_TE) @ v_TE, expected_TE)


@given(st.tuples(*[st.integers(1, 9)] * 3), st.tuples(*[st.sampled_from([4, 8, 16])] * 3), st.integers(8, 64))
@settings(max_examples=60, deadline=None)
def test_cells_are_few_boxes_that_hold_every_token_once(grid: tuple[int, ...], patch: tuple[int, ...], most: int) -> None:
    cells = Cells.of_grid(grid, patch, most)  # type: ignore[arg-type]
    assert cells.count <= most
    assert sorted(set(cells.cell_N.tolist())) == list(range(cells.count))
    if math.prod(grid) <= most:
        assert cells.cell_N.tolist() == list(range(math.prod(grid)))
    cell_ZYX = cells.cell_N.view(grid)
    for cell in range(cells.count):
        where = (cell_ZYX == cell).nonzero()
        low, high = where.min(dim=0).values, where.max(dim=0).values
        assert len(where) == int((high - low + 1).prod())  # a box


def test_joined_rows_are_means_of_queries_and_sums_over_keys() -> None:
    network, x_CZYX = encoder(2), torch.randn(1, 8, 12, 16)
    fine, _ = attention_weights(network, x_CZYX, torch.ones(3), Cells.of_grid(GRID, PATCH))
    cells = Cells.of_grid(GRID, PATCH, 8)
    coarse, _ = attention_weights(network, x_CZYX, torch.ones(3), cells)
    torch.testing.assert_close(coarse.sum(dim=3), torch.ones(3, 2, 2 + cells.count), rtol=0, atol=1e-5)
    own, other = ((cells.cell_N == cell).nonzero()[:, 0] + 2 for cell in (1, 3))
    expected = fine[1, 0][own][:, other].sum(dim=1).mean()
    torch.testing.assert_close(coarse[1, 0, 2 + 1, 2 + 3], expected)


def test_rollout_follows_attention_through_the_layers() -> None:
    """Token 0 looks at 1 in the second layer, and 1 at 2 in the first: through both, 0 looks at 2."""
    first, second = torch.eye(3), torch.eye(3)
    first[1], second[0] = torch.tensor([0.0, 0.0, 1.0]), torch.tensor([0.0, 1.0, 0.0])
    flow_WW = rollout(torch.stack([first, second])[:, None].expand(-1, 2, -1, -1))
    torch.testing.assert_close(flow_WW.sum(dim=1), torch.ones(3))
    torch.testing.assert_close(flow_WW[0], torch.tensor([0.5, 0.25, 0.25]))


def test_similarity_is_symmetric_and_1_with_itself() -> None:
    token_ND = torch.randn(24, 10)
    token_ND[5] = -3 * token_ND[4]
    value_MM = similarity(token_ND, Cells.of_grid(GRID, PATCH))
    assert torch.equal(value_MM, value_MM.T)
    torch.testing.assert_close(value_MM.diagonal(), torch.ones(24))
    assert float(value_MM[4, 5]) == pytest.approx(-1)
    assert float(value_MM[0, 1]) == pytest.approx(float(torch.cosine_similarity(token_ND[0], token_ND[1], dim=0)), abs=1e-6)
