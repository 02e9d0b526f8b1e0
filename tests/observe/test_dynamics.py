"""Gradients, updates and the teacher's distance of each block, on two ranks at each ZeRO stage, against whole weights."""

from typing import Any, NamedTuple

import deepspeed
import pytest
import torch

from mri_fm.config import Config, load_config
from mri_fm.engine.ema import EMA
from mri_fm.engine.environment import read_environment, start_process_group
from mri_fm.engine.nonfinite import NonfiniteGuard
from mri_fm.engine.setup import DEFAULT_DS_CONFIG, build_engine, build_objective, read_ds_config
from mri_fm.inputs import Inputs
from mri_fm.observe.dynamics import BlockDynamics, block_of
from tests.distributed import run_ranks

WORDS = """
model.width=24 model.depth=2 model.heads=3 data.size=[8,16,16] train.global_batch=4 model.patch=[4,4,4] data.corpus=C run.dir=R
model.predictor.width=24 model.predictor.depth=1 model.predictor.heads=3 train.clip=0.01 optim.layer_decay=0.7
""".split()
STAGES = ("zero0.json", "zero1.json", "zero2.json", "zero3.json")
BLOCKS = ["block_00", "block_01", "embedding", "norm", "predictor"]
LR, DECAY, MOMENTUM = 1e-2, 0.1, 0.9


def config() -> Config:
    return load_config("jepa", WORDS)


def inputs(rank: int, world: int) -> Inputs:
    volumes = torch.randn(4, 1, 8, 16, 16, generator=torch.Generator().manual_seed(0))
    return Inputs(volumes[rank::world], torch.arange(4)[rank::world], 0)


def whole_weights(engine: Any) -> dict[str, torch.Tensor]:
    named = dict(engine.module.named_parameters())
    sharded = any(hasattr(parameter, "ds_tensor") for parameter in named.values())
    with deepspeed.zero.GatheredParameters(list(named.values()), enabled=sharded):
        return {name: parameter.detach().clone() for name, parameter in named.items()}


def ratio(part: list[torch.Tensor], whole: list[torch.Tensor]) -> float:
    return float(torch.cat([p.flatten() for p in part]).norm() / torch.cat([w.flatten() for w in whole]).norm())


def measured(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> dict[str, float]:
    """From whole weights what a report should say."""
    trained = [name for name in before if not name.startswith("teacher.")]
    found = {}
    for block in BLOCKS:
        names = [name for name in trained if block_of(name) == block]
        found[f"update_ratio/{block}"] = ratio([after[n] - before[n] for n in names], [before[n] for n in names])
    pairs = [(after[n.replace("teacher.", "student.")], after[n]) for n in after if n.startswith("teacher.")]
    return found | {"ema_distance": ratio([s - t for s, t in pairs], [s for s, _ in pairs])}


class Seen(NamedTuple):
    report: dict[str, float]
    expected: dict[str, float]  # by whole weights
    norm: float  # of the gradient


def train_rank(rank: int, world: int) -> list[list[Seen]]:
    """The steps of each stage."""
    environment = read_environment()
    start_process_group(environment)
    results = []
    for stage in STAGES:
        engine = build_engine(config(), read_ds_config(DEFAULT_DS_CONFIG.parent / stage), environment)
        ema = EMA(engine.module.ema_pairs())
        guard, dynamics = NonfiniteGuard(engine, 0, environment), BlockDynamics(engine, ema, config(), environment)
        steps = []
        for step in range(2):
            for group in engine.optimizer.param_groups:
                group["lr"], group["weight_decay"] = LR * group["lr_scale"], DECAY if group["decay"] else 0.0
            before = whole_weights(engine)
            dynamics.expect()
            loss, _ = engine(inputs(rank, world), {})
            guard.note(loss, ("key",))
            engine.backward(loss)
            guard.step()
            guard.finish(step + 1)
            ema.update(MOMENTUM)
            report = {name: float(value) for name, value in dynamics.report(guard.norm()).items()}
            steps.append(Seen(report, measured(before, whole_weights(engine)), float(guard.norm())))
        results.append(steps)
    return results


def plain_gradient_norms() -> dict[str, float]:
    """Of the first step, by autograd over the whole batch."""
    objective = build_objective(config())
    objective(inputs(0, 1), {})[0].backward()
    found = {}
    for block in BLOCKS:
        gradients = [p.grad for n, p in objective.named_parameters() if p.grad is not None and block_of(n) == block]
        found[f"grad_norm/{block}"] = float(torch.cat([g.flatten() for g in gradients]).norm())
    return found


def sick_rank(rank: int) -> dict[str, dict[str, float]]:
    """One step at rates from none to far too high, with a teacher that follows at once or not at all."""
    environment = read_environment()
    start_process_group(environment)
    found = {}
    for name, rate, momentum in (("idle", 0.0, 0.0), ("healthy", 1e-3, 0.996), ("wild", 10.0, 1.0)):
        engine = build_engine(config(), read_ds_config(DEFAULT_DS_CONFIG), environment)
        ema = EMA(engine.module.ema_pairs())
        guard, dynamics = NonfiniteGuard(engine, 0, environment), BlockDynamics(engine, ema, config(), environment)
        for group in engine.optimizer.param_groups:
            group["lr"], group["weight_decay"] = rate * group["lr_scale"], 0.0
        dynamics.expect()
        loss, _ = engine(inputs(0, 1), {})
        guard.note(loss, ("key",))
        engine.backward(loss)
        guard.step()
        guard.finish(1)
        ema.update(momentum)
        found[name] = {key: float(value) for key, value in dynamics.report(guard.norm()).items()}
    return found


def test_rates_and_teachers_that_are_sick_leave_the_healthy_range():
    idle, healthy, wild = run_ranks(sick_rank, 1)[0].values()
    assert idle["update_ratio/block_01"] == idle["ema_distance"] == 0
    assert 1e-4 < healthy["update_ratio/block_01"] < 1e-1
    assert 0 < healthy["ema_distance"] < 0.1
    assert wild["update_ratio/block_01"] > 1  # the weights are gone
    assert wild["ema_distance"] > 0.5
    assert wild["grad_norm/block_01"] == pytest.approx(healthy["grad_norm/block_01"], rel=1e-4)  # of the step before


@pytest.fixture(scope="module")
def results() -> list[list[list[Seen]]]:
    return run_ranks(train_rank, 2, 2)


@pytest.mark.parametrize("stage", range(4))
def test_updates_and_the_teachers_distance_are_those_of_the_weights(results, stage):
    for report, expected, _ in results[0][stage]:
        assert {name: report[name] for name in expected} == pytest.approx(expected, rel=2e-3)
        assert min(expected.values()) > 1e-4


@pytest.mark.parametrize("stage", range(4))
def test_gradients_of_blocks_make_up_the_whole_and_do_not_depend_on_rank_or_stage(results, stage):
    report, _, norm = results[0][stage][1]
    assert results[1][stage][1].report == report
    found = {name: value for name, value in report.items() if name.startswith("grad_norm/")}
    assert sorted(found) == [f"grad_norm/{block}" for block in BLOCKS]
    assert sum(value**2 for value in found.values()) == pytest.approx(norm**2, rel=1e-4)
    assert norm > 10 * config().train.clip  # it was clipped
    assert report == pytest.approx(results[0][0][1].report, rel=2e-3)


def test_gradients_of_the_first_step_are_those_of_autograd(results):
    expected = plain_gradient_norms()
    assert {name: results[0][1][0].report[name] for name in expected} == pytest.approx(expected, rel=1e-3)


def test_blocks_are_found_by_name():
    names = ["student.blocks.11.mlp.up.weight", "student.register_token", "student.norm.bias", "decoder.blocks.0.norm_mlp.bias"]
    assert [block_of(name) for name in names] == ["block_11", "embedding", "norm", "decoder"]
