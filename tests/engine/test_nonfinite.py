"""NaNs planted into real training on two ranks: the step leaves no trace, is counted, and past the budget named."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import deepspeed  # noqa: F401  imported before the fork, once for all ranks
import pytest
import torch

from mri_fm.config import Config, load_config
from mri_fm.data.loader import TrainLoader
from mri_fm.engine.environment import read_environment, start_process_group
from mri_fm.engine.loop import Trainer, run_training
from mri_fm.engine.setup import DEFAULT_DS_CONFIG, build_optimizer
from mri_fm.errors import UserError
from mri_fm.observe.recorder import read_metrics
from mri_fm.train_config import OptimConfig
from tests.distributed import run_ranks
from tests.engine.test_training import small_config

on_gpu = pytest.mark.skipif(not torch.cuda.device_count(), reason="needs a GPU")
PLANTED = 2  # the optimizer step, from 1
BAD_RANK = 1
OBJECTIVE = "jepa"


def state(trainer: Trainer) -> list[torch.Tensor]:
    """What a step changes, as far as this rank holds it: weights, teacher, moments with their counts of steps."""
    weights = [getattr(p, "ds_tensor", p.data) for p in trainer.engine.module.parameters()]
    moments = [value for slot in trainer.engine.basic_optimizer.state.values() for value in slot.values()]
    return [tensor.detach().clone() for tensor in (*weights, *trainer.ema.masters, *moments) if torch.is_tensor(tensor)]


def plant(where: str, micro_steps: set[int]) -> None:
    """Spoil micro-steps (from 0) of this forked rank: a voxel, or the gradient of a loss that is finite."""
    following = TrainLoader.__next__
    seen = [-1]

    def spoiled(self: TrainLoader) -> Any:
        batch = following(self)
        seen[0] += 1
        if where == "voxel" and seen[0] in micro_steps:
            x_BCZYX = batch.x_BCZYX.clone()
            x_BCZYX[0] = torch.nan
            return replace(batch, x_BCZYX=x_BCZYX)
        return batch

    TrainLoader.__next__ = spoiled  # type: ignore[method-assign]
    if where == "gradient":
        made = Trainer.__init__

        def spoil_gradient(module: torch.nn.Module, inputs: Any, outputs: Any) -> None:
            if seen[0] in micro_steps:
                outputs[0].register_hook(lambda gradient: gradient * torch.nan)

        def hooked(self: Trainer, *args: Any) -> None:
            made(self, *args)
            self.engine.module.register_forward_hook(spoil_gradient)

        Trainer.__init__ = hooked  # type: ignore[method-assign]


def train_planted(rank: int, config: Config, ds_config: dict, where: str, micro_steps: set[int]) -> Any:
    """For each step whether it left every tensor as it was; or what the run ended with."""
    environment = read_environment()
    start_process_group(environment)
    if rank == BAD_RANK:
        plant(where, micro_steps)
    step, unchanged = Trainer._step, []

    def watched(self: Trainer, *args: Any) -> Any:
        before = state(self)
        parts = step(self, *args)
        unchanged.append(all(torch.equal(a, b) for a, b in zip(before, state(self), strict=True)))
        return parts

    Trainer._step = watched  # type: ignore[method-assign]
    try:
        run_training(config, ds_config, environment)
    except UserError as error:
        return str(error)
    return unchanged


def sharding(stage: int) -> dict:
    if stage == 0:
        return {"zero_optimization": {"stage": 0}}
    return json.loads(DEFAULT_DS_CONFIG.with_name(f"zero{stage}.json").read_text())


@pytest.mark.parametrize(
    ("stage", "where", "words"),
    [
        (0, "voxel", ()),
        (0, "gradient", ()),
        (1, "gradient", ("train.accumulation=2",)),
        (2, "voxel", ("train.precision=bf16",)),
        (3, "voxel", ()),
        (3, "gradient", ()),
    ],
)
def test_a_step_that_is_not_finite_leaves_no_trace_and_the_run_goes_on(corpus, tmp_path, stage, where, words):
    config = small_config(corpus, tmp_path, OBJECTIVE, "train.nonfinite_budget=1", *words)
    micro_steps = {(PLANTED - 1) * config.train.accumulation}
    of_rank = run_ranks(train_planted, 2, config, sharding(stage), where, micro_steps)
    assert of_rank == [[step == PLANTED for step in range(1, 5)]] * 2
    records = read_metrics(Path(config.run.dir))
    assert [record["nonfinite_steps"] for record in records] == [0, 1, 1, 1]
    assert [record["grad_norm"] is None or record["loss"] is None for record in records] == [False, True, False, False]
    assert records[3]["loss"] < records[0]["loss"] * 1.5


def test_past_the_budget_all_ranks_stop_and_name_the_sample(corpus, tmp_path):
    config = small_config(corpus, tmp_path, OBJECTIVE, "train.nonfinite_budget=1", "log_every=4", "checkpoint.every=3")
    first, second = run_ranks(train_planted, 2, config, sharding(1), "voxel", {0, 2})
    assert first == second
    assert "at step 3 (" in first
    assert "2 such steps exceed train.nonfinite_budget=1" in first
    named = first.partition("(")[2].partition(")")[0].split(", ")
    assert 1 <= len(named) <= 2  # of the four samples of the step, those of the rank and micro-step that went wrong
    assert "\n" not in first
    assert not list((tmp_path / "checkpoints").glob("step-*"))  # weights are looked at before they are kept


def test_the_count_goes_on_after_a_resume(corpus, tmp_path):
    """One step is left out before the checkpoint of step 3, and one after it, in another start: past a budget of 1."""
    words = ("train.nonfinite_budget=1", "checkpoint.every=3", "train.steps=3")
    assert run_ranks(train_planted, 2, small_config(corpus, tmp_path, OBJECTIVE, *words), sharding(1), "voxel", {1})
    longer = small_config(corpus, tmp_path, OBJECTIVE, *words[:2], "train.steps=6")
    first, second = run_ranks(train_planted, 2, longer, sharding(1), "voxel", {0})
    assert first == second
    assert "2 such steps exceed train.nonfinite_budget=1" in first


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, on_gpu])])
def test_found_inf_leaves_weights_moments_and_the_count_of_steps_as_they_are(device):
    weight = torch.nn.Parameter(torch.ones(5, device=device))
    optimizer = build_optimizer(torch.nn.ParameterDict({"weight": weight}), OptimConfig(), depth=1)
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    for found in (1.0, 0.0):
        weight.grad = torch.full((5,), torch.nan if found else 1.0, device=device)
        optimizer.found_inf = torch.tensor(found, device=device)
        before = [weight.detach().clone(), *(value.clone() for value in optimizer.state[weight].values())]
        optimizer.step()
        after = [weight.detach(), *optimizer.state[weight].values()]
        assert [torch.equal(a, b) for a, b in zip(before, after, strict=True)] == [bool(found)] * len(after)
    assert float(optimizer.state[weight]["step"]) == 2


def test_a_negative_budget_is_refused():
    with pytest.raises(UserError, match=r"train\.nonfinite_budget"):
        load_config("mae", ["data.corpus=C", "run.dir=R", "train.nonfinite_budget=-1"])
