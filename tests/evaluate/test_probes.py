"""Probes find what is planted, find nothing in noise, and never see the fold they are tested on.

Axes: S samples, N tokens, D width, F features.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mri_fm.errors import UserError
from mri_fm.evaluate import attentive
from mri_fm.evaluate.attentive import AttentiveProbe, fit_attentive
from mri_fm.evaluate.compare import out_of_fold
from mri_fm.evaluate.embed import embed
from mri_fm.evaluate.linear import fit_linear, fit_voxels
from mri_fm.evaluate.splits import grouped_folds
from mri_fm.evaluate.statistics import auroc
from mri_fm.inputs import Inputs


def cross_validated(features: Any, label_S: np.ndarray, fit: Any, unit_S: np.ndarray | None = None) -> float:
    unit_S = np.arange(len(label_S)) if unit_S is None else unit_S
    fold_S = grouped_folds(label_S, unit_S, 4, seed=0)
    return float(auroc(label_S, out_of_fold(features, label_S, unit_S, fold_S, fit, seed=0))[0])


def one_telling_token(samples: int, tokens: int, width: int) -> tuple[torch.Tensor, np.ndarray]:
    """Class 1 has one outlying token at a random place; the mean over the tokens is exactly the same for all."""
    rng = np.random.default_rng(0)
    token_SND, label_S = rng.standard_normal((samples, tokens, width)), np.arange(samples) % 2
    token_SND[np.arange(samples), rng.integers(0, tokens, samples), 0] += 7.0 * label_S
    token_SND -= token_SND.mean(axis=1, keepdims=True)
    return torch.from_numpy(token_SND).half(), label_S


@pytest.mark.parametrize("fit", [fit_linear, fit_voxels])
@pytest.mark.parametrize("classes", [2, 3])
def test_a_planted_direction_is_found(fit: Any, classes: int) -> None:
    rng = np.random.default_rng(0)
    label_S = np.arange(90) % classes
    feature_SF = rng.standard_normal((90, 40)) + 3.0 * np.eye(classes, 40)[label_S]
    assert cross_validated(feature_SF.astype(np.float32), label_S, fit) > 0.85


@pytest.mark.parametrize("fit", [fit_linear, fit_voxels])
def test_noise_of_many_dimensions_gives_chance(fit: Any) -> None:
    rng = np.random.default_rng(1)
    values = [
        cross_validated(rng.standard_normal((60, 300)).astype(np.float32), rng.permutation(np.arange(60) % 2), fit)
        for _ in range(6)
    ]
    assert 0.38 < np.mean(values) < 0.62


@pytest.mark.parametrize("fit", [fit_linear, fit_voxels])
def test_a_unit_that_gives_its_label_away_helps_nobody(fit: Any) -> None:
    """Each unit has its own strong signature and one label: split by unit that is worth nothing, split by volume everything."""
    rng = np.random.default_rng(2)
    unit_S = np.repeat(np.arange(24), 4)
    label_S = rng.permutation(np.arange(24) % 2)[unit_S]
    feature_SF = (rng.standard_normal((24, 200))[unit_S] + 0.1 * rng.standard_normal((96, 200))).astype(np.float32)
    assert cross_validated(feature_SF, label_S, fit, unit_S) < 0.75
    assert cross_validated(feature_SF, label_S, fit) > 0.95


@pytest.mark.parametrize("fit", [fit_linear, fit_voxels, partial(fit_attentive, heads=2)])
def test_a_test_volume_changes_no_other_score(fit: Any) -> None:
    """Scaling, components, C and epoch come from the training part: an outlier in the test part moves its own score alone."""
    rng = np.random.default_rng(3)
    token_SND = torch.from_numpy(rng.standard_normal((40, 4, 8))).float()
    features = token_SND if isinstance(fit, partial) else token_SND.flatten(1).numpy()
    label_S, unit_S = np.arange(30) % 2, np.arange(30)
    spoilt = features[30:] * 1
    spoilt[0] *= 1000
    before = fit(features[:30], label_S, unit_S, features[30:], seed=0, index=1)
    after = fit(features[:30], label_S, unit_S, spoilt, seed=0, index=1)
    np.testing.assert_allclose(before[1:], after[1:], atol=1e-6)
    assert not np.allclose(before[0], after[0], atol=1e-6)


def test_only_attention_finds_the_one_token_that_tells() -> None:
    token_SND, label_S = one_telling_token(120, 16, 8)
    assert cross_validated(token_SND, label_S, partial(fit_attentive, heads=2)) > 0.8
    assert cross_validated(token_SND.float().mean(dim=1).numpy(), label_S, fit_linear) < 0.65


def test_the_attentive_probe_is_a_function_of_its_seed() -> None:
    token_SND, label_S = one_telling_token(24, 4, 4)
    fit = partial(fit_attentive, token_SND, label_S, np.arange(24), token_SND, heads=2, index=1)
    first = fit(seed=0)
    torch.manual_seed(99)
    np.testing.assert_array_equal(first, fit(seed=0))
    assert not np.array_equal(first, fit(seed=1))


def test_the_folded_query_is_multi_head_attention() -> None:
    """Against torch's own, which projects every token, in float64."""
    probe = AttentiveProbe(width=12, heads=3, classes=2).double()
    probe.initialise(np.random.default_rng(0))
    nn.init.normal_(probe.query_D, std=3.0)
    nn.init.normal_(probe.value.bias)
    plain = nn.MultiheadAttention(12, 3, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        plain.in_proj_weight.copy_(torch.cat([torch.eye(12, dtype=torch.float64), probe.key.weight, probe.value.weight]))
        plain.in_proj_bias.copy_(torch.cat([torch.zeros(24, dtype=torch.float64), probe.value.bias]))
        plain.out_proj.weight.copy_(probe.project.weight)
        plain.out_proj.bias.copy_(probe.project.bias)
    token_SND = torch.randn(5, 7, 12, dtype=torch.float64)
    expected, _ = plain(probe.query_D.expand(5, 1, 12), token_SND, token_SND)
    torch.testing.assert_close(probe.project(probe.attend(token_SND)), expected[:, 0], rtol=1e-12, atol=1e-12)


def test_the_weights_of_the_best_epoch_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    token_SND = torch.from_numpy(np.random.default_rng(0).standard_normal((6, 3, 4))).float().repeat(2, 1, 1)
    held_S = torch.arange(12) < 6
    kept = []
    for epochs in (1, 5):  # what is learned is wrong for the held-out samples, so the first epoch is the best
        rng = np.random.default_rng(0)
        probe = AttentiveProbe(4, 2, 2)
        probe.initialise(rng)
        monkeypatch.setattr(attentive, "EPOCHS", epochs)
        attentive._train(probe, token_SND, held_S.long(), held_S, rng)
        kept.append(probe.state_dict())
    assert all(torch.equal(kept[0][name], kept[1][name]) for name in kept[0])


class Mean(nn.Module):
    """An encoder of one token, the mean voxel."""

    def forward(self, x_BCZYX: torch.Tensor, spacing_B3: torch.Tensor) -> torch.Tensor:
        return x_BCZYX.mean(dim=(1, 2, 3, 4))[:, None, None]


def test_embeddings_come_in_the_order_of_the_keys_whatever_the_batches() -> None:
    x_BCZYX = torch.arange(4.0).view(4, 1, 1, 1, 1).expand(4, 1, 4, 4, 4)
    batches: list[Any] = [
        Inputs(x_BCZYX[picked], torch.tensor(picked), 0, spacing_B3=torch.ones(2, 3)) for picked in ([2, 0], [3, 1])
    ]
    encoders: Any = {"mean": Mean()}
    embedded = embed(encoders, batches, list("abcd"), torch.device("cpu"))
    assert embedded.pooled["mean"][:, 0].tolist() == embedded.slice_SYX[:, 0, 0].tolist() == [0, 1, 2, 3]
    with pytest.raises(UserError, match="2 of 4 labelled volumes"):
        embed(encoders, batches[:1], list("abcd"), torch.device("cpu"))
