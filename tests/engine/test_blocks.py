"""Blocks that are recomputed or compiled give what plain ones give."""

import copy

import pytest
import torch

from mri_fm.engine.blocks import prepare_blocks
from mri_fm.models.vit import VisionTransformer
from tests.engine.test_training import small_config, train

POSITIONS_B = torch.tensor([5, 9])


def encoder() -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer((8, 16, 16), (4, 8, 8), 24, 3, 2, drop_path=0.6, seed=1)


def gradients(model: VisionTransformer) -> tuple[list[torch.Tensor], int]:
    """Of a loss on two samples, and how many bytes the forward pass kept for the backward pass."""
    kept: dict[int, int] = {}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    x_BCZYX = torch.randn(2, 1, 8, 16, 16, generator=torch.Generator().manual_seed(2))
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        loss = model(x_BCZYX, positions_B=POSITIONS_B).square().mean()
    loss.backward()
    return [loss.detach(), *(parameter.grad for parameter in model.parameters())], sum(kept.values())


def test_recomputed_blocks_give_the_same_bits_and_keep_less():
    plain = encoder()
    recomputed = copy.deepcopy(plain)
    prepare_blocks(recomputed, checkpoint_activations=True, compiled=False)
    (expected, much), (seen, little) = gradients(plain), gradients(recomputed)
    assert all(torch.equal(a, b) for a, b in zip(seen, expected, strict=True))
    assert little < 0.5 * much
    assert list(recomputed.state_dict()) == list(plain.state_dict())


@pytest.mark.parametrize("ds_config", ["zero2.json", "zero3.json"])
def test_a_run_with_recomputed_blocks_has_the_same_losses(corpus, tmp_path, ds_config):
    words = ("model.drop_path=0.3", "model.position=rope", "model.qk_norm=true", "train.steps=3")
    plain, recomputed = (
        train(small_config(corpus, tmp_path / name, "jepa", *words, f"train.checkpoint_activations={name}"), ds_config)
        for name in ("false", "true")
    )
    assert recomputed == plain


@pytest.mark.slow
def test_compiled_blocks_compute_the_same_up_to_rounding():
    plain = encoder()
    for checkpointed in (False, True):
        compiled = copy.deepcopy(plain)
        prepare_blocks(compiled, checkpoint_activations=checkpointed, compiled=True)
        plain.zero_grad()
        for seen, expected in zip(gradients(compiled)[0], gradients(plain)[0], strict=True):
            torch.testing.assert_close(seen, expected, atol=1e-6, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ds_config", "words"),
    [
        ("zero2.json", ()),
        ("zero3.json", ("observe.every=3",)),
        ("zero3.json", ("train.checkpoint_activations=true",)),
    ],
)
def test_a_compiled_run_has_the_same_losses_up_to_rounding(corpus, tmp_path, ds_config, words):
    plain, compiled = (
        train(small_config(corpus, tmp_path / name, "jepa_vcr", f"train.compile={name}", *words), ds_config, timeout=900.0)
        for name in ("false", "true")
    )
    assert compiled == pytest.approx(plain, abs=1e-5)


@pytest.mark.slow
def test_compiled_blocks_whose_weights_are_sharded_stay_whole_graphs(corpus, tmp_path, monkeypatch):
    """Not traced through DeepSpeed's hooks, which would end in the limit of recompilations and run uncompiled."""
    monkeypatch.setattr(torch._dynamo.config, "fail_on_recompile_limit_hit", True)
    losses = train(small_config(corpus, tmp_path, "jepa", "train.compile=true"), "zero3.json", timeout=900.0)
    assert len(losses) == 4
