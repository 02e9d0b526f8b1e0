"""Fine-tuning moves what it should, at the rate it should, and learns what a frozen encoder hides.

Axes: S units, Z/Y/X voxels.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from mri_fm.errors import UserError
from mri_fm.evaluate.features import Features
from mri_fm.evaluate.finetune import SCHEDULE, LowRank, Tuned, Tuning, fit_tuned, layer_rates, pack, unpack
from mri_fm.evaluate.metrics import auroc
from mri_fm.evaluate.optimise import Schedule
from mri_fm.evaluate.supervised import fit_supervised
from mri_fm.evaluate.target import Target
from mri_fm.evaluate.training import TrainingPart
from mri_fm.models.vit import VisionTransformer

SIZE = (8, 8, 8)


def encoder(depth: int = 3) -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(SIZE, (4, 4, 4), 24, depth, 2)


def learning(tuning: str) -> set[str]:
    return {name for name, p in Tuned(encoder(), 2, 2, Tuning.parse(tuning)).named_parameters() if p.requires_grad}


def test_each_mode_learns_its_part() -> None:
    everything = learning("full")
    assert any(name.startswith("encoder.embedding") for name in everything)
    last = {name for name in learning("partial:2") if name.startswith("encoder")}
    assert {name.split(".")[2] for name in last if "blocks" in name} == {"1", "2"}
    assert "encoder.norm.weight" in last
    assert not any("embedding" in name for name in last)
    low_rank = {name for name in learning("lora") if name.startswith("encoder")}
    assert len(low_rank) == 3 * 2 * 2  # blocks × (qkv, out) × (down, up)
    assert all(".down." in name or ".up." in name for name in low_rank)


def test_rates_fall_with_the_distance_from_the_probe() -> None:
    network = Tuned(encoder(), 2, 2, Tuning("full"))
    rates = {
        id(p): (group["lr"], group["weight_decay"]) for group in layer_rates(network, SCHEDULE, 0.6) for p in group["params"]
    }
    named = {name: rates[id(p)] for name, p in network.named_parameters()}
    peak = SCHEDULE.learning_rate
    assert named["probe.head.weight"] == (peak, SCHEDULE.weight_decay)
    assert named["encoder.norm.weight"] == (peak, 0.0)
    for block in range(3):
        assert named[f"encoder.blocks.{block}.attention.qkv.weight"][0] == pytest.approx(peak * 0.6 ** (3 - block))
    assert named["encoder.embedding.weight"][0] == pytest.approx(peak * 0.6**4)
    assert named["encoder.blocks.0.attention.qkv.bias"][1] == 0.0


def test_low_rank_starts_as_the_frozen_layer_and_adds_its_product() -> None:
    layer = torch.nn.Linear(6, 4)
    update = LowRank(layer, rank=2, scale=3.0)
    x_BND = torch.randn(2, 5, 6)
    torch.testing.assert_close(update(x_BND), layer(x_BND))
    torch.nn.init.normal_(update.up.weight)
    weight = layer.weight + 3.0 * update.up.weight @ update.down.weight
    torch.testing.assert_close(update(x_BND), torch.nn.functional.linear(x_BND, weight, layer.bias))


def stripes() -> tuple[Features, np.ndarray]:
    rng = np.random.default_rng(1)
    label_S = np.arange(32) % 2
    volume_SZYX = rng.standard_normal((32, *SIZE)).astype(np.float32)
    volume_SZYX[label_S == 1, ::2] += 1.5
    rows = pack(torch.from_numpy(volume_SZYX), torch.ones(32, 3))
    return Features.plain(rows), label_S


@pytest.mark.parametrize("tuning", ["full", "partial:1", "lora"])
def test_a_class_is_learned_and_the_encoder_given_stays_as_it_was(tuning: str) -> None:
    features, label_S = stripes()
    known, asked, start = np.arange(24), np.arange(24, 32), encoder(1)
    before = {name: tensor.clone() for name, tensor in start.state_dict().items()}
    schedule = Schedule(epochs=12, patience=12, batch=8, learning_rate=3e-3, warmup=0.2)
    part = TrainingPart(features[known], Target.of_classes(label_S[known]), known)
    fit = partial(fit_tuned, part, encoder=start, heads=2, tuning=Tuning.parse(tuning), schedule=schedule)
    first = fit(features[asked])
    assert auroc(label_S[asked], first.test_SK)[0] > 0.8
    assert all(torch.equal(before[name], tensor) for name, tensor in start.state_dict().items())
    torch.manual_seed(7)
    again = fit(features[asked])
    np.testing.assert_array_equal(first.test_SK, again.test_SK)


def test_training_starts_at_the_encoder_that_was_given() -> None:
    """Without a step to take, what learns is what a frozen encoder gives: no weight of it is drawn anew."""
    features, label_S = stripes()
    start, rows = encoder(2), np.arange(8)
    part, schedule = TrainingPart(features[rows], Target.of_classes(label_S[rows]), rows), Schedule(epochs=1, learning_rate=0.0)
    given = [
        fit_tuned(part, features[rows], encoder=start, heads=2, tuning=Tuning.parse(mode), schedule=schedule).test_SK
        for mode in ("full", "partial:1", "lora")
    ]
    np.testing.assert_allclose(given[0], given[1], atol=1e-6)
    np.testing.assert_allclose(given[0], given[2], atol=1e-6)


def test_volumes_and_spacing_come_back_as_they_were_packed() -> None:
    volume_VZYX, spacing_V3 = torch.randn(3, *SIZE).half(), torch.tensor([[1.0, 0.5, 0.5]] * 3)
    x_SCZYX, present_SC, spacing_SC3 = unpack(Features.plain(pack(volume_VZYX, spacing_V3)), SIZE)
    torch.testing.assert_close(x_SCZYX[:, 0], volume_VZYX, rtol=0, atol=0)
    assert spacing_SC3[:, 0].tolist() == spacing_V3.tolist()
    assert bool(present_SC.all())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_the_gpu_a_class_is_learned_too() -> None:
    features, label_S = stripes()
    known, asked = np.arange(24), np.arange(24, 32)
    target = Target.of_classes(label_S[known])
    schedule = Schedule(epochs=12, patience=12, batch=8, learning_rate=3e-3, warmup=0.2)
    part = TrainingPart(features[known], target, known)
    tuned = fit_tuned(part, features[asked], encoder=encoder(1), heads=2, tuning=Tuning("full"), schedule=schedule)
    volumes = Features.plain(unpack(features, SIZE)[0][:, 0])
    scratch = fit_supervised(part.reading(volumes[known]), volumes[asked])
    assert min(auroc(label_S[asked], one.test_SK)[0] for one in (tuned, scratch)) > 0.8


@pytest.mark.parametrize("text", ["all", "partial", "partial:0", "lora:3", "partial:x"])
def test_other_words_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="give full, partial:BLOCKS"):
        Tuning.parse(text)
