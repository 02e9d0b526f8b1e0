"""Probes find what is planted, find nothing in noise, and never see the fold they are tested on.

Axes: S samples, N tokens, D width, F features.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mri_fm.errors import UserError
from mri_fm.evaluate.attentive import AttentiveProbe, fit_attentive
from mri_fm.evaluate.compare import out_of_fold
from mri_fm.evaluate.embed import embed
from mri_fm.evaluate.estimators import Cox, partial_likelihood_loss
from mri_fm.evaluate.experts import multiply
from mri_fm.evaluate.features import Features, gather
from mri_fm.evaluate.linear import fit_linear, fit_neighbours, fit_voxels
from mri_fm.evaluate.metrics import auroc, measure
from mri_fm.evaluate.optimise import Examples, Schedule, fit_network, initialise, learn, target_loss
from mri_fm.evaluate.splits import cross_validation
from mri_fm.evaluate.supervised import fit_supervised
from mri_fm.evaluate.target import Target
from mri_fm.evaluate.training import Fitted, TrainingPart
from mri_fm.inputs import Inputs


def cross_validated(features: Any, label_S: np.ndarray, fit: Any, group_S: np.ndarray | None = None) -> float:
    group_S = np.arange(len(label_S)) if group_S is None else group_S
    target = Target.of_classes(label_S)
    features = features if isinstance(features, Features) else Features.plain(features)
    _, scores = out_of_fold(features, target, group_S, cross_validation(target, group_S, 4, seed=0), fit, seed=0)
    return float(measure("auroc", scores)[0])


def one_telling_token(samples: int, tokens: int, width: int) -> tuple[torch.Tensor, np.ndarray]:
    """Class 1 has one outlying token at a random place; the mean over the tokens is exactly the same for all."""
    rng = np.random.default_rng(0)
    token_SND, label_S = rng.standard_normal((samples, tokens, width)), np.arange(samples) % 2
    token_SND[np.arange(samples), rng.integers(0, tokens, samples), 0] += 7.0 * label_S
    token_SND -= token_SND.mean(axis=1, keepdims=True)
    return torch.from_numpy(token_SND).half(), label_S


@pytest.mark.parametrize("fit", [fit_linear, fit_voxels, fit_neighbours])
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
        for _ in range(4)
    ]
    assert 0.36 < np.mean(values) < 0.64


@pytest.mark.parametrize("fit", [fit_linear, fit_voxels])
def test_a_group_that_gives_its_label_away_helps_nobody(fit: Any) -> None:
    """Each group has a strong signature and one label: split by group that is worth nothing, split by volume everything."""
    rng = np.random.default_rng(2)
    group_S = np.repeat(np.arange(24), 4)
    label_S = rng.permutation(np.arange(24) % 2)[group_S]
    feature_SF = (rng.standard_normal((24, 200))[group_S] + 0.1 * rng.standard_normal((96, 200))).astype(np.float32)
    assert cross_validated(feature_SF, label_S, fit, group_S) < 0.75
    assert cross_validated(feature_SF, label_S, fit) > 0.95


@pytest.mark.parametrize("fit", [fit_linear, fit_voxels, fit_neighbours, partial(fit_attentive, heads=2)])
def test_a_test_volume_changes_no_other_score(fit: Any) -> None:
    """Scaling, components, C and epoch come from the training part: an outlier in the test part moves its own score alone."""
    rng = np.random.default_rng(3)
    token_SND = torch.from_numpy(rng.standard_normal((40, 4, 8))).float()
    features = token_SND if isinstance(fit, partial) else token_SND.flatten(1).numpy()
    label_S, group_S = np.arange(30) % 2, np.arange(30)
    spoilt = features[30:] * 1
    spoilt[0] *= 1000
    train, target = Features.plain(features[:30]), Target.of_classes(label_S)
    before, after = (
        fit(TrainingPart(train, target, group_S), Features.plain(test)).test_SK for test in (features[30:], spoilt)
    )
    np.testing.assert_allclose(before[1:], after[1:], atol=1e-6)
    if fit is not fit_neighbours:  # whose few neighbours may happen to have the same labels
        assert not np.allclose(before[0], after[0], atol=1e-6)


def test_only_attention_finds_the_one_token_that_tells() -> None:
    token_SND, label_S = one_telling_token(120, 16, 8)
    assert cross_validated(token_SND, label_S, partial(fit_attentive, heads=2)) > 0.8
    assert cross_validated(token_SND.float().mean(dim=1).numpy(), label_S, fit_linear) < 0.65


def test_the_attentive_probe_is_a_function_of_its_seed() -> None:
    token_SND, label_S = one_telling_token(24, 4, 4)
    tokens = Features.plain(token_SND)
    part = TrainingPart(tokens, Target.of_classes(label_S), np.arange(24))
    first = fit_attentive(part, tokens, heads=2).test_SK
    torch.manual_seed(99)
    np.testing.assert_array_equal(first, fit_attentive(part, tokens, heads=2).test_SK)
    assert not np.array_equal(first, fit_attentive(replace(part, seed=1), tokens, heads=2).test_SK)


def test_the_folded_query_is_multi_head_attention() -> None:
    """Against torch's own, which projects every token, in float64."""
    probe = AttentiveProbe(width=12, heads=3, outputs=2).double()
    initialise(probe, np.random.default_rng(0))
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
    one_S1 = torch.ones(5, 1, dtype=torch.bool)
    torch.testing.assert_close(probe.project(probe.attend(token_SND[:, None], one_S1)), expected[:, 0], rtol=1e-12, atol=1e-12)


def test_missing_contrasts_are_not_attended_to() -> None:
    """Joint: as all tokens of the contrasts that there are in one sequence; else the mean of what each gives alone."""
    token_SCND, present_SC = torch.randn(4, 3, 5, 8, dtype=torch.float64), torch.tensor([[True, False, True]]).expand(4, -1)
    for joint in (True, False):
        probe = AttentiveProbe(8, 2, 2, joint).double()
        initialise(probe, np.random.default_rng(1))
        nn.init.normal_(probe.query_D)
        alone = [probe.attend(token_SCND[:, c : c + 1], torch.ones(4, 1, dtype=torch.bool)) for c in (0, 2)]
        whole = probe.attend(token_SCND[:, [0, 2]].flatten(1, 2)[:, None], torch.ones(4, 1, dtype=torch.bool))
        expected = whole if joint else (alone[0] + alone[1]) / 2
        torch.testing.assert_close(probe.attend(token_SCND, present_SC), expected)


def test_the_weights_of_the_best_epoch_are_kept() -> None:
    feature_SD = torch.from_numpy(np.random.default_rng(0).standard_normal((6, 4))).float().repeat(2, 1)
    target = Target.of_classes((np.arange(12) < 6).astype(np.int64))
    kept = []
    for epochs in (1, 5):  # what is learned is wrong for the held-out units, so the first epoch is the best
        network = nn.Linear(4, 2)
        initialise(network, np.random.default_rng(0))
        learn(network, Examples((feature_SD,), target), np.arange(6), np.random.default_rng(1), Schedule(epochs=epochs))
        kept.append(network.state_dict())
    assert all(torch.equal(kept[0][name], kept[1][name]) for name in kept[0])


def test_rates_warm_up_linearly_and_stay_there() -> None:
    network, rates = nn.Linear(4, 2), []

    class Watched(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:
            rates.append([group["lr"] for group in self.param_groups])

    optimizer = Watched([{"params": [network.weight], "lr": 0.8}, {"params": [network.bias], "lr": 0.4}])
    known = Examples((torch.randn(6, 4),), Target.of_classes(np.arange(6) % 2))
    schedule = Schedule(epochs=8, patience=99, batch=4, warmup=0.5)
    learn(network, known, np.arange(2), np.random.default_rng(0), schedule, optimizer)
    np.testing.assert_allclose([rate[0] for rate in rates], [0.2, 0.4, 0.6, 0.8, 0.8, 0.8, 0.8, 0.8])
    np.testing.assert_allclose([rate[1] for rate in rates], np.array([rate[0] for rate in rates]) / 2)


@pytest.mark.parametrize("kind", ["regression", "survival"])
def test_values_and_times_are_read_off_a_planted_direction(kind: str) -> None:
    rng = np.random.default_rng(4)
    feature_SF = rng.standard_normal((60, 6))
    if kind == "regression":
        target, metric, least = Target(40 + 9 * feature_SF[:, 0] + rng.normal(size=60), kind), "r2", 0.7
    else:
        time_S = rng.exponential(np.exp(-1.5 * feature_SF[:, 0])) + 0.01
        target, metric, least = Target(time_S, kind, (), rng.random(60) < 0.8), "c_index", 0.7
    splits = cross_validation(target, np.arange(60), 3, seed=0)
    for fit in (fit_linear, fit_supervised_line):
        _, scores = out_of_fold(Features.plain(feature_SF), target, np.arange(60), splits, fit, seed=0)
        assert measure(metric, scores)[0] > least


def fit_supervised_line(part: TrainingPart, test: Features) -> Fitted:
    """The losses of the networks, on a network of one layer."""
    network, rng = nn.Linear(6, 1), np.random.default_rng(part.seed)
    initialise(network, rng)
    schedule = Schedule(epochs=80, learning_rate=0.03)
    return fit_network(network, part, test, lambda f: (torch.from_numpy(f.mean()).float(),), rng, schedule)


def test_cox_loss_is_that_of_the_partial_likelihood() -> None:
    rng = np.random.default_rng(5)
    target = Target(np.round(rng.exponential(2, 20), 1) + 0.1, "survival", (), rng.random(20) < 0.7)
    hazard_S = rng.normal(size=20)
    terms = [
        np.log(np.exp(hazard_S[target.value_S >= time]).sum()) - hazard
        for hazard, time, event in zip(hazard_S, target.value_S, target.event_S, strict=True) if event
    ]  # fmt: skip
    assert partial_likelihood_loss(target, hazard_S) == pytest.approx(np.sum(terms))
    loss = target_loss(torch.from_numpy(hazard_S)[:, None], target, (0.0, 1.0))
    assert float(loss) == pytest.approx(np.mean(terms), rel=1e-5)


def test_cox_regression_leaves_constant_columns_out_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    """Principal components beyond the rank are rounding errors; scaled to 1 they would be learned as if they were features."""
    rng = np.random.default_rng(12)
    feature_SF = rng.standard_normal((40, 3)) * [1.0, 1.0, 1e-3]
    target = Target(rng.exponential(np.exp(-feature_SF[:, 0])) + 0.01, "survival", (), rng.random(40) < 0.8)
    flat_SF = np.concatenate([feature_SF, np.ones((40, 1)), 1e-15 * rng.standard_normal((40, 2))], axis=1)
    with_flat, without = (Cox(0.1).fit(x_SF, target).predict(x_SF) for x_SF in (flat_SF, feature_SF))
    np.testing.assert_allclose(with_flat, without, atol=1e-9)
    assert not [w for w in recwarn if "variance" in str(w.message)]


@pytest.mark.filterwarnings("ignore:Column . has high sample correlation", "ignore:An ill-conditioned matrix")
def test_cox_regression_that_does_not_converge_is_named() -> None:
    target = Target(np.arange(10.0) + 1, "survival", (), np.ones(10, dtype=bool))
    with pytest.raises(UserError, match=r"Cox regression of 10 units with 10 events does not converge .*take more units"):
        Cox(0.0).fit(np.repeat(np.arange(10.0), 2).reshape(10, 2), target)  # the same column twice, and no penalty


def several_contrasts(missing: float, effect: float = 0.9) -> tuple[Features, np.ndarray]:
    """Three contrasts, each telling the class a little; some are missing."""
    rng = np.random.default_rng(6)
    label_S = np.arange(120) % 2
    value_SCF = rng.standard_normal((120, 3, 8)) + effect * label_S[:, None, None] * np.eye(1, 8)
    present_SC = rng.random((120, 3)) >= missing
    present_SC[~present_SC.any(axis=1), 0] = True
    return Features(np.where(present_SC[..., None], value_SCF, 0), present_SC), label_S


@pytest.mark.parametrize("fusion", ["mean", "concatenation", "product"])
@pytest.mark.parametrize("missing", [0.0, 0.4])
def test_several_contrasts_tell_more_than_one(fusion: str, missing: float) -> None:
    features, label_S = several_contrasts(missing)
    one = cross_validated(features.contrast(0).value_SC[:, 0], label_S, fit_linear)
    assert cross_validated(features, label_S, partial(fit_linear, fusion=fusion)) > one + 0.03


@pytest.mark.parametrize("fusion", ["concatenation", "product"])
def test_the_attentive_probe_fuses_contrasts_too(fusion: str) -> None:
    features, label_S = several_contrasts(0.3, 2.0)
    tokens = Features(torch.from_numpy(features.value_SC)[:, :, None].expand(-1, -1, 2, -1).half(), features.present_SC)
    known, asked = np.arange(80), np.arange(80, 120)
    target = Target.of_classes(label_S[known])
    fitted = fit_attentive(TrainingPart(tokens[known], target, known), tokens[asked], fusion=fusion, heads=2)
    assert auroc(label_S[asked], fitted.test_SK)[0] > 0.75


def test_experts_multiply_as_independent_evidence_does() -> None:
    """Of two contrasts that are independent given the class, the product is Bayes' rule; one missing contrast says nothing."""
    prior_K, likelihood_CK = np.array([0.7, 0.3]), np.array([[0.2, 0.6], [0.5, 0.4]])
    posterior_CK = likelihood_CK * prior_K
    posterior_CK /= posterior_CK.sum(axis=1, keepdims=True)
    bayes_K = prior_K * likelihood_CK.prod(axis=0)
    np.testing.assert_allclose(multiply(posterior_CK[None], prior_K, "classification")[0], bayes_K / bayes_K.sum())
    posterior_CK[1] = np.nan
    np.testing.assert_allclose(multiply(posterior_CK[None], prior_K, "classification")[0], posterior_CK[0])
    nothing_SCK = np.full((1, 2, 2), np.nan)
    np.testing.assert_allclose(multiply(nothing_SCK, prior_K, "classification")[0], prior_K)


def test_volumes_of_one_contrast_are_averaged_and_missing_ones_are_known() -> None:
    value_VF = np.array([[1.0], [3.0], [5.0], [7.0]], dtype=np.float32)
    features = gather(value_VF, np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1]), 2, 2)
    assert features.value_SC[..., 0].tolist() == [[2.0, 5.0], [0.0, 7.0]]
    assert features.present_SC.tolist() == [[True, True], [False, True]]
    assert features.mean()[:, 0].tolist() == [3.5, 7.0]


def test_a_given_validation_part_chooses_and_is_not_learned() -> None:
    """Labels of the validation part are wrong: learned, they would turn the scores; they may only choose the strength."""
    rng = np.random.default_rng(7)
    label_S = np.arange(60) % 2
    feature_SF = rng.standard_normal((60, 4)) + 3 * label_S[:, None]
    wrong_S = np.where(np.arange(60) >= 20, 1 - label_S, label_S)
    for fit in (fit_linear, fit_neighbours):
        part = TrainingPart(Features.plain(feature_SF), Target.of_classes(wrong_S), np.arange(60), np.arange(20, 60))
        fitted = fit(part, Features.plain(feature_SF))
        assert auroc(label_S, fitted.test_SK)[0] > 0.9
        assert fitted.held.tolist() == list(range(20, 60))


def test_the_supervised_network_learns_a_bright_ball_and_skips_missing_contrasts() -> None:
    rng = np.random.default_rng(8)
    label_S = np.arange(32) % 2
    volume_SCZYX = rng.standard_normal((32, 2, 16, 16, 16)).astype(np.float32)
    volume_SCZYX[:, 0, 4:12, 4:12, 4:12] += 2.0 * label_S[:, None, None, None]
    present_SC = np.stack([np.ones(32, dtype=bool), np.zeros(32, dtype=bool)], axis=1)
    features, known, asked = Features(torch.from_numpy(volume_SCZYX).half(), present_SC), np.arange(24), np.arange(24, 32)
    first = fit_supervised(TrainingPart(features[known], Target.of_classes(label_S[known]), known), features[asked])
    assert auroc(label_S[asked], first.test_SK)[0] > 0.9
    volume_SCZYX[:, 1] = 1e3
    features = Features(torch.from_numpy(volume_SCZYX).half(), present_SC)
    again = fit_supervised(TrainingPart(features[known], Target.of_classes(label_S[known]), known), features[asked])
    np.testing.assert_array_equal(first.test_SK, again.test_SK)


class Mean(nn.Module):
    """An encoder of one token, the mean voxel."""

    patch = (4, 4, 4)

    def forward(self, x_BCZYX: torch.Tensor, spacing_B3: torch.Tensor) -> torch.Tensor:
        return x_BCZYX.mean(dim=(1, 2, 3, 4))[:, None, None]


def test_embeddings_carry_their_places_whatever_the_batches() -> None:
    x_BCZYX = torch.arange(4.0).view(4, 1, 1, 1, 1).expand(4, 1, 4, 4, 4)
    foreground = torch.ones(2, 1, 4, 4, 4, dtype=torch.bool)
    batches: list[Any] = [
        Inputs(x_BCZYX[picked], torch.tensor(picked), 0, foreground, spacing_B3=torch.ones(2, 3)) for picked in ([2, 0], [3, 1])
    ]
    encoders: Any = {"mean": Mean()}
    for positions, part in embed(encoders, batches, list("abcd"), torch.device("cpu")):
        assert part["mean/pooled"][:, 0].tolist() == part["input/slices"][:, 0, 0].tolist() == positions
        assert part["mean/regions"].shape == (2, 1)
