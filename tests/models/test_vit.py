import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mri_fm.config import load_config
from mri_fm.model_config import HeadConfig
from mri_fm.models.heads import MaskedHead, decoder, predictor
from mri_fm.models.layers import Attention, Block
from mri_fm.models.patches import patchify
from mri_fm.models.vit import VisionTransformer

SIZE, PATCH = (8, 12, 16), (4, 4, 8)
DEFAULT_NAMES = """
embedding.weight embedding.bias
blocks.0.norm_attention.weight blocks.0.norm_attention.bias
blocks.0.attention.qkv.weight blocks.0.attention.qkv.bias blocks.0.attention.out.weight blocks.0.attention.out.bias
blocks.0.norm_mlp.weight blocks.0.norm_mlp.bias
blocks.0.mlp.up.weight blocks.0.mlp.up.bias blocks.0.mlp.down.weight blocks.0.mlp.down.bias
norm.weight norm.bias
""".split()
"""What checkpoints are read by."""


def tiny(**changes) -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(**{"size": SIZE, "patch": PATCH, "width": 24, "depth": 2, "heads": 3, **changes})


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("preset", "exact", "paper_millions", "tolerance"),
    [
        ("vit_tiny", 5_437_248, None, None),
        ("vit_small", 21_491_328, None, None),
        ("vit_base", 85_449_984, 85.5, 0.1),
        ("vit_large", 302_836_736, None, None),
        ("vit_huge", 630_337_280, None, None),
        ("vit_giant", 1_010_732_160, 1010, 5),
        ("vit_gigantic", 1_842_219_904, 1840, 5),
    ],
)
def test_parameter_counts(preset, exact, paper_millions, tolerance):
    model = load_config("mae", ["run.dir=x", "data.corpus=y", f"model={preset}"]).model
    with torch.device("meta"):
        encoder = VisionTransformer.from_config(model, (32, 64, 64))
    assert parameters(encoder) == exact
    assert encoder.width == model.width
    if paper_millions is not None:
        assert abs(exact / 1e6 - paper_millions) <= tolerance


def test_parameter_counts_of_the_heads_behind_base():
    model = load_config("mae", ["run.dir=x", "data.corpus=y", "model=vit_base"]).model
    with torch.device("meta"):
        encoder = VisionTransformer.from_config(model, (32, 64, 64))
        assert parameters(predictor(model, encoder)) == 11_238_912  # the paper's 11.2 M
        assert parameters(decoder(model, encoder)) == 14_689_280  # the paper's 14.7 M


def test_shapes_and_attributes():
    encoder = tiny()
    assert (encoder.grid, encoder.num_tokens, encoder.width) == ((2, 3, 2), 12, 24)
    x = torch.randn(2, 1, *SIZE)
    assert encoder(x).shape == (2, 12, 24)
    assert encoder(x, torch.tensor([[0, 5, 11]] * 2)).shape == (2, 3, 24)


def test_keeping_every_token_is_the_plain_path():
    encoder, x = tiny(), torch.randn(2, 1, *SIZE)
    torch.testing.assert_close(encoder(x, torch.arange(12).expand(2, -1)), encoder(x), rtol=0, atol=1e-6)


def test_hidden_voxels_do_not_reach_the_visible_tokens():
    encoder, x = tiny(), torch.randn(1, 1, *SIZE)
    visible = torch.tensor([[0, 7]])  # patch 11 holds the last voxel
    changed = x.clone()
    changed[..., -1] += 100.0
    assert encoder(changed, visible[:, :1]).equal(encoder(x, visible[:, :1]))
    assert not encoder(changed).equal(encoder(x))


def test_positions_tell_equal_patches_apart():
    tokens = tiny()(torch.ones(1, 1, *SIZE))
    assert (tokens[0, 0] - tokens[0, 1]).abs().max() > 1e-2


def test_patch_embedding_is_a_strided_convolution():
    encoder, x = tiny(in_channels=2), torch.randn(2, 2, *SIZE)
    kernel = encoder.embedding.weight.reshape(24, 2, *PATCH)
    convolved = F.conv3d(x, kernel, encoder.embedding.bias, stride=PATCH).flatten(2).transpose(1, 2)
    torch.testing.assert_close(encoder.embedding(patchify(x, PATCH)), convolved, rtol=1e-4, atol=1e-5)


def test_attention_equals_its_formula_in_float64():
    attention, x = Attention(24, 3, 0.02).double(), torch.randn(2, 5, 24, dtype=torch.float64)
    q, k, v = (t.unflatten(2, (3, 8)).transpose(1, 2) for t in attention.qkv(x).chunk(3, dim=2))
    mixed = ((q @ k.transpose(2, 3)) / 8**0.5).softmax(-1) @ v
    expected = attention.out(mixed.transpose(1, 2).reshape(2, 5, 24))
    torch.testing.assert_close(attention(x), expected, rtol=0, atol=1e-12)


def test_block_is_pre_norm_with_gelu_in_float64():
    block, x = Block(24, 3, 2.0, 1).double(), torch.randn(2, 5, 24, dtype=torch.float64)
    mlp = block.mlp
    y = x + block.attention(F.layer_norm(x, (24,), eps=1e-6))
    expected = y + mlp.down(F.gelu(mlp.up(F.layer_norm(y, (24,), eps=1e-6))))
    torch.testing.assert_close(block(x), expected, rtol=0, atol=1e-12)
    assert mlp.up.out_features == 48


def test_attention_does_not_depend_on_the_order_of_tokens():
    block, x = Block(24, 3, 4.0, 1).double(), torch.randn(1, 6, 24, dtype=torch.float64)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    torch.testing.assert_close(block(x[:, order]), block(x)[:, order], rtol=0, atol=1e-12)


def test_initial_weights():
    torch.manual_seed(1)
    block = Block(384, 6, 4.0, 8)
    for linear, std in (
        (block.attention.qkv, 0.02),
        (block.mlp.up, 0.02),
        (block.attention.out, 0.005),
        (block.mlp.down, 0.005),
    ):
        # A normal cut at two standard deviations keeps 0.88 of its own.
        assert abs(linear.weight.std().item() / std - 0.88) < 0.01
        assert linear.weight.abs().max() <= 2 * std
        assert (linear.bias == 0).all()


def test_positions_are_no_parameters_and_not_saved():
    encoder = tiny()
    assert list(tiny(depth=1).state_dict()) == DEFAULT_NAMES
    assert not any("position" in name for name in encoder.state_dict())
    assert not any("position" in name for name, _ in encoder.named_parameters())


def test_every_parameter_is_used():
    encoder = tiny()
    head = MaskedHead(HeadConfig(24, 1, 3), encoder.grid, 24, 7)
    visible, hidden = torch.tensor([[0, 3, 4]]), torch.tensor([[1, 2, 5, 6, 7, 8, 9, 10, 11]])
    head(encoder(torch.randn(1, 1, *SIZE), visible), visible, hidden).square().sum().backward()
    for name, parameter in [*encoder.named_parameters(), *head.named_parameters()]:
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_any_input_dtype_meets_any_weight_dtype(dtype):
    x = torch.randn(1, 1, *SIZE)
    exact = tiny()(x)
    torch.testing.assert_close(tiny()(x.to(dtype)), exact, rtol=0.02, atol=0.02)
    if dtype != torch.float16:
        out = tiny().to(dtype)(x)
        assert out.dtype == dtype
        torch.testing.assert_close(out.float(), exact, rtol=0.1, atol=0.1)


def test_volumes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="volumes of 2 channels given to an encoder for 1"):
        tiny()(torch.randn(1, 2, *SIZE))
    with pytest.raises(ValueError, match="does not divide"):
        tiny()(torch.randn(1, 1, 8, 12, 12))
    with pytest.raises(ValueError, match="heads"):
        tiny(heads=5)


def test_head_output_belongs_to_its_hidden_position():
    encoder = tiny()
    head = MaskedHead(HeadConfig(24, 1, 3), encoder.grid, 24, 7).double()
    tokens, visible = torch.randn(1, 2, 24, dtype=torch.float64), torch.tensor([[0, 3]])
    both = head(tokens, visible, torch.tensor([[4, 9]]))
    swapped = head(tokens, visible, torch.tensor([[9, 4]]))
    assert both.shape == (1, 2, 7)
    torch.testing.assert_close(both, swapped.flip(1), rtol=0, atol=1e-12)
    assert (both[:, 0] - both[:, 1]).abs().max() > 1e-4


def test_copies_are_independent():
    encoder = tiny()
    twin = copy.deepcopy(encoder)
    with torch.no_grad():
        encoder.norm.weight.add_(1.0)
    assert not twin.norm.weight.equal(encoder.norm.weight)
