import math

import numpy as np
import pytest
import torch

from mri_fm.config import load_config
from mri_fm.engine.setup import build_objective
from mri_fm.observe.attention import QUERIES, AttentionEntropy, attention_entropy


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def reference(q: np.ndarray, k: np.ndarray) -> np.ndarray:
    stride = math.ceil(q.shape[2] / QUERIES)
    scores = np.einsum("bhqe,bhte->bhqt", q[:, :, ::stride].astype(np.float64), k.astype(np.float64)) / math.sqrt(q.shape[3])
    weights = np.exp(scores - scores.max(axis=3, keepdims=True))
    weights /= weights.sum(axis=3, keepdims=True)
    return -(weights * np.log(weights)).sum(axis=3).mean(axis=(1, 2)) / math.log(q.shape[2])


@pytest.mark.parametrize("tokens", [10, 130])
def test_entropy_equals_the_float64_reference(tokens):
    q, k = 2 * draw(2, 3, tokens, 8), draw(2, 3, tokens, 8, seed=1)
    assert attention_entropy(q, k).tolist() == pytest.approx(reference(q.numpy(), k.numpy()).tolist(), rel=1e-5)


def test_attention_that_looks_everywhere_has_1_and_at_one_token_0():
    k = draw(1, 2, 16, 16)
    assert float(attention_entropy(torch.zeros_like(k), k)) == pytest.approx(1)
    assert float(attention_entropy(1000 * k, k)) == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize("words", [(), ("model.qk_norm=true", "model.position=rope", "model.registers=2")])
def test_every_layer_of_the_encoder_is_seen_and_its_output_stays(words):
    sizes = "model.width=48 model.depth=3 model.heads=3 data.size=[16,32,32] data.corpus=C run.dir=R".split()
    student = build_objective(load_config("mae", [*sizes, *words])).student.eval()
    x = draw(2, 1, 16, 32, 32)
    with torch.no_grad(), AttentionEntropy() as seen:
        tokens = student(x)
    assert seen.per_layer().shape == (2, 3)
    assert torch.equal(tokens, student(x))
    assert 0.85 < float(seen.per_layer().min()) < 1  # random weights look nearly everywhere alike
    with torch.no_grad():
        for block in student.blocks:
            block.attention.qkv.weight *= 100
    with torch.no_grad(), AttentionEntropy() as sharp:
        student(x)
    if not words:  # with qk_norm the scale of the weights does not matter
        assert float(sharp.per_layer().mean()) < 0.5
