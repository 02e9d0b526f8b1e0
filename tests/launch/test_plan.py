import sys

import pytest

from launch import plan
from launch.planning.hardware import GPUS
from launch.planning.memory import Memory, Zero
from launch.planning.roofline import Cluster, traffic
from launch.planning.trace import trace
from mri_fm.config import load_config
from mri_fm.engine.setup import build_objective
from mri_fm.errors import UserError

WORDS = ["data.corpus=C", "run.dir=R", "model.depth=2"]


@pytest.mark.parametrize("objective", ["mae", "mae_spectral", "jepa", "jepa_vcr", "jepa_sigreg"])
def test_flops_are_the_objectives_own(objective):
    config = load_config(objective, WORDS)
    micro = trace(config, 3, "bf16")
    assert micro.matmul_flops + micro.attention_flops == pytest.approx(3 * build_objective(config).flops_per_sample())
    assert 0 < micro.attention_flops < micro.matmul_flops


def test_a_trace_grows_in_a_straight_line():
    config = load_config("jepa_vcr", WORDS)
    two, three, five = (trace(config, samples, "bf16") for samples in (2, 3, 5))
    line = plan.at_batch(two, three, 5)
    assert (line.saved, line.inputs) == (five.saved, five.inputs)
    assert line.matmul_flops == pytest.approx(five.matmul_flops)


def test_recomputed_blocks_keep_less_and_work_more():
    plain, lean = (trace(load_config("jepa", [*WORDS, f"train.checkpoint_activations={on}"]), 2, "bf16") for on in (0, 1))
    assert lean.saved < 0.8 * plain.saved  # of two blocks and the predictor's
    assert 0.1 < lean.recomputed < 1 / 3
    assert (lean.matmul_flops, lean.attention_flops, plain.recomputed) == (plain.matmul_flops, plain.attention_flops, 0.0)


@pytest.mark.parametrize(
    ("stage", "accumulation", "elements"),
    [(1, 1, 2 * 7), (1, 4, 2 * 7), (2, 4, 7 + 4 * 7), (3, 1, 3 * 7 + 5), (3, 2, 2 * (3 * 7 + 5))],
)
def test_traffic_is_that_of_the_zero_paper(stage, accumulation, elements):
    zero = Zero.of({"zero_optimization": {"stage": stage}})
    assert sum(traffic(zero, 2, 7, 5, accumulation)) == 2 * elements


def plan_of(capsys, monkeypatch, *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", ["plan", "--objective", "jepa_vcr", *arguments])
    assert plan.main() == 0
    return capsys.readouterr().out


def test_the_command_says_what_to_take_and_what_it_assumed(capsys, monkeypatch):
    text = plan_of(capsys, monkeypatch, "--model", "vit_small", "--nodes", "2", "--gpus-per-node", "8", "--gpu", "h100")
    for part in (
        "assumed: data=paper", "train.global_batch=192", "--ds_config ds_configs/zero",
        "MFU", "days", "checkpoint.every=",
        "assumptions", "GB/s over all nodes", "goodput", "Daly", "989 TFLOP/s", *(f"zero{stage}.json" for stage in (1, 2, 3)),
    ):  # fmt: skip
        assert part in text, part


def test_thousands_of_gpus_get_a_batch_that_divides(capsys, monkeypatch):
    text = plan_of(capsys, monkeypatch, "--model", "vit_small", "--nodes", "512")
    assert "train.global_batch=4096" in text


def choice(name: str, gigabytes: float, seconds: float, *, rounds: bool = False) -> plan.Choice:
    held = Memory(gigabytes * 1e9, 0, 0, 0, 0, 0, 0)
    micro = trace(load_config("mae", WORDS), 2, "bf16")
    step = plan.Step(seconds, 0, 0, 0, 0, 0, 1.0)
    return plan.Choice(name, rounds, 1, micro, held, step)


ONE_NODE = Cluster(1, 8, GPUS["h100"])


def test_the_fastest_that_fits_is_chosen_and_the_simplest_of_equals():
    zero1, zero3 = choice("zero1.json", 100, 1.0), choice("zero3.json", 40, 2.0)
    assert plan.choose([zero1, zero3], ONE_NODE) is zero3
    near = choice("zero2.json", 40, 2.005)
    assert plan.choose([zero3, near], ONE_NODE) is near
    rounded = choice("zeropp.json", 40, 0.5, rounds=True)
    assert plan.choose([zero3, rounded], ONE_NODE) is zero3
    assert plan.choose([zero1, rounded], ONE_NODE) is rounded
    with pytest.raises(UserError, match=r"nothing fits into 72 GB: the least is 100 GB \(zero1"):
        plan.choose([zero1], ONE_NODE)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["train.global_batch=100", "--nodes", "8"], "does not divide over 64"),
        (["--storage-gb-s", "0"], "storage-gb-s"),
        (["--model", "vit_giantt"], "vit_giant"),
        (["optim.lrr=1"], "optim.lr"),
        (["train.sequence_parallel=2"], "the plan does not know train.sequence_parallel"),
    ],
)
def test_a_mistake_is_named(monkeypatch, arguments, named):
    monkeypatch.setattr(sys, "argv", ["plan", "--objective", "jepa_vcr", *arguments])
    with pytest.raises(UserError, match=named):
        plan.main()
