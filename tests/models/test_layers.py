import math

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call

from mri_fm.models.layers import Attention, Block, BlockOptions, LayerScale, drop_path_gates
from mri_fm.models.mlp import SwiGLU, mlp_hidden
from mri_fm.models.positions import Rope, RotaryPositions

ALL = BlockOptions(mlp="swiglu", qk_norm=True, layer_scale=0.1)


def captured_scores(attention: Attention, x: torch.Tensor) -> torch.Tensor:
    """What the softmax sees, from a call of torch's kernel."""
    seen = {}
    original = F.scaled_dot_product_attention

    def record(q, k, v):
        seen["scores"] = q @ k.transpose(2, 3) / q.shape[-1] ** 0.5
        return original(q, k, v)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "scaled_dot_product_attention", record)
        attention(x)
    return seen["scores"]


def test_qk_norm_bounds_the_scores():
    torch.manual_seed(0)
    x = 1e4 * torch.randn(2, 7, 24, dtype=torch.float64)
    attention = Attention(24, 3, 0.02, qk_norm=True).double()
    with torch.no_grad():
        attention.norm_q.weight.uniform_(-2, 2)
    bound = math.sqrt(8) * attention.norm_q.weight.abs().max()
    assert captured_scores(attention, x).abs().max() <= bound
    assert captured_scores(Attention(24, 3, 0.02).double(), x).abs().max() > 100 * bound


def test_qk_norm_is_a_layer_norm_of_each_head_in_float64():
    attention, x = Attention(24, 3, 0.02, qk_norm=True).double(), torch.randn(2, 5, 24, dtype=torch.float64)
    q, k, _ = (t.unflatten(2, (3, 8)).transpose(1, 2) for t in attention.qkv(x).chunk(3, dim=2))
    q, k = ((t - t.mean(-1, keepdim=True)) / (t.var(-1, correction=0, keepdim=True) + 1e-6).sqrt() for t in (q, k))
    torch.testing.assert_close(captured_scores(attention, x), q @ k.transpose(2, 3) / 8**0.5, rtol=0, atol=1e-12)
    assert [n for n, _ in attention.named_parameters() if "norm" in n] == ["norm_q.weight", "norm_k.weight"]


def test_swiglu_equals_its_formula_in_float64():
    mlp, x = SwiGLU(6, 10, 0.02).double(), torch.randn(2, 3, 6, dtype=torch.float64)
    gate, up = (x @ w.T + b for w, b in zip(mlp.gate_up.weight.split(10), mlp.gate_up.bias.split(10), strict=True))
    expected = (gate * torch.sigmoid(gate) * up) @ mlp.down.weight.T + mlp.down.bias
    torch.testing.assert_close(mlp(x), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("width", [192, 384, 768, 1024, 1280, 1408, 1664])
def test_swiglu_has_as_many_parameters_as_gelu(width):
    ratio = {1408: 48 / 11, 1664: 64 / 13}.get(width, 4.0)
    hidden = mlp_hidden(width, ratio, "swiglu")
    assert hidden % 8 == 0
    assert 3 * hidden == pytest.approx(2 * mlp_hidden(width, ratio, "gelu"), rel=0.01)
    assert mlp_hidden(6, 0.1, "swiglu") == 8


def test_a_block_with_a_tiny_layer_scale_is_the_identity_and_learns():
    block, x = Block(24, 3, 4.0, 1, BlockOptions(layer_scale=1e-9)), torch.randn(2, 5, 24)
    out = block(x)
    torch.testing.assert_close(out, x, rtol=0, atol=1e-6)
    (out * torch.randn_like(out)).sum().backward()
    assert block.scale_attention.gain_D.grad.abs().min() > 0
    assert block.scale_mlp.gain_D.grad.abs().min() > 0


def test_layer_scale_multiplies_each_feature():
    scale, x = LayerScale(4, 0.5), torch.randn(2, 3, 4)
    with torch.no_grad():
        scale.gain_D[1] = 2.0
    assert scale(x).equal(x * torch.tensor([0.5, 2.0, 0.5, 0.5]))


def test_gates_scale_the_branches_of_their_sample():
    block, x = Block(24, 3, 4.0, 1).double(), torch.randn(3, 5, 24, dtype=torch.float64)
    out = block(x, None, torch.tensor([[0.0, 0.0], [1.0, 1.0], [2.0, 0.0]]))
    assert out[0].equal(x[0])
    torch.testing.assert_close(out[1], block(x[1:2])[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(out[2], (x + 2 * block.attention(block.norm_attention(x)))[2], rtol=0, atol=1e-12)


def test_dropped_paths_have_their_probabilities_and_keep_the_expectation():
    rate, depth, samples = 0.4, 4, 20_000
    gate_BL2 = drop_path_gates(rate, depth, seed=1, positions_B=torch.arange(samples))
    assert gate_BL2.dtype == torch.float32
    for layer in range(depth):
        p = rate * (layer + 1) / depth
        dropped = gate_BL2[:, layer] == 0
        assert dropped.double().mean().item() == pytest.approx(p, abs=5 * math.sqrt(p * (1 - p) / (2 * samples)))
        torch.testing.assert_close(gate_BL2[:, layer][~dropped].unique(), torch.tensor([1 / (1 - p)]))
    correlation = torch.corrcoef((gate_BL2 == 0).double().flatten(1).T) - torch.eye(2 * depth)
    assert correlation.abs().max() < 5 / math.sqrt(samples)


def test_dropped_paths_are_a_function_of_seed_and_position():
    positions = torch.tensor([5, 1 << 40, 0, 17])
    together = drop_path_gates(0.5, 24, seed=3, positions_B=positions)
    for row, position in zip(together, positions, strict=True):
        assert row.equal(drop_path_gates(0.5, 24, seed=3, positions_B=position[None])[0])
    assert not together.equal(drop_path_gates(0.5, 24, seed=4, positions_B=positions))
    assert not together[0].equal(together[1])
    assert (drop_path_gates(0.0, 3, seed=0, positions_B=positions) == 1).all()


def test_gradients_of_a_block_with_every_option_in_float64():
    torch.manual_seed(0)
    block = Block(6, 1, 1.0, 1, ALL).double()
    x = torch.randn(2, 3, 6, dtype=torch.float64, requires_grad=True)
    _, rotation = RotaryPositions(6, Rope(), (1, 1, 3), (8, 8, 8))(x, None, (1, 1, 3), None)
    gate = torch.tensor([[1.5, 0.5], [0.0, 2.0]], dtype=torch.float64)
    names, values = zip(*block.named_parameters(), strict=True)

    def run(x, *parameters):
        return functional_call(block, dict(zip(names, parameters, strict=True)), (x, rotation, gate))

    assert torch.autograd.gradcheck(run, (x, *values))
