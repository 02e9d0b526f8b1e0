"""Training with mixtures of experts: over ranks, over ZeRO stages, and across a kill."""

from pathlib import Path

import pytest
import torch

from mri_fm.config import Config
from mri_fm.engine.weights import load_objective
from mri_fm.models.moe import mixtures
from mri_fm.observe.recorder import read_metrics
from tests.engine.test_training import small_config, train

EXPERTS = (
    "model.moe_experts=4 model.moe_active=2 model.moe_shared=1 model.moe_width=16 model.moe_every=1 model.moe_bias_rate=0.01 "
    "train.accumulation=2"
).split()


def loads(config: Config) -> list[float]:
    return [record["expert_load"] for record in read_metrics(Path(config.run.dir))]


def bias(config: Config, part: str = "student") -> list[list[int]]:
    """Of each mixture, from the last checkpoint."""
    return [moe.balance_E.tolist() for moe in mixtures(getattr(load_objective(Path(config.run.dir)).objective, part))]


def test_two_ranks_train_and_balance_as_one_and_the_checkpoint_has_the_bias(corpus, tmp_path):
    one, two = (small_config(corpus, tmp_path / str(world), "jepa_vcr", *EXPERTS) for world in (1, 2))
    assert train(two) == pytest.approx(train(one, world=1), abs=2e-6)
    assert loads(one) == loads(two)
    assert all(1 <= load <= 4 for load in loads(one))
    assert bias(one) == bias(two) == bias(two, "teacher")
    assert torch.tensor(bias(one)).any()


@pytest.mark.slow
@pytest.mark.parametrize("ds_config", ["zero1.json", "zero3.json"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_killed_run_resumes_bitwise(corpus, tmp_path, ds_config, precision):
    words = (*EXPERTS, f"train.precision={precision}")
    whole, killed = (small_config(corpus, tmp_path / name, "jepa", *words) for name in "ab")
    undisturbed = train(whole, ds_config)
    train(killed, ds_config, stop_after=3)
    assert train(killed, ds_config) == undisturbed
    assert loads(killed) == loads(whole)
    assert bias(killed) == bias(whole) == bias(whole, "teacher")


@pytest.mark.slow
def test_stage_3_agrees_within_rounding(corpus, tmp_path):
    first, third = (small_config(corpus, tmp_path / name, "mae", *EXPERTS) for name in "ab")
    assert train(third, "zero3.json") == pytest.approx(train(first), abs=1e-6)
    assert bias(third) == bias(first)
