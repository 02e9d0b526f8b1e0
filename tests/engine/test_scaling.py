"""What docs/scaling.md says: every key, and that stages, ranks and accumulation do not change the losses."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import deepspeed  # noqa: F401  imported before the fork, once for all ranks
import pytest
import torch

from mri_fm.engine.setup import DEFAULT_DS_CONFIG
from mri_fm.objectives import OBJECTIVES
from mri_fm.observe.throughput import Meter
from mri_fm.train_config import OptimConfig, TrainConfig
from tests.engine.test_training import MILLIMETRES, small_config, train

PAGE = (Path(__file__).parents[2] / "docs" / "scaling.md").read_text()
FILES = sorted(DEFAULT_DS_CONFIG.parent.glob("*.json"))
LINE = re.compile(r"^\| `(\w+)` \| ([^|]+) \| [^|]+ \|$", re.MULTILINE)


def keys_of(tree: dict[str, Any]) -> Iterator[str]:
    for key, value in tree.items():
        yield key
        if isinstance(value, dict):
            yield from keys_of(value)


def test_every_key_of_every_ds_config_is_explained_with_the_files_it_is_in():
    section = PAGE.partition("## Line by line")[2].partition("## ")[0]
    explained = dict(LINE.findall(section))
    used: dict[str, list[str]] = {}
    for file in FILES:
        for key in keys_of(json.loads(file.read_text())):
            used.setdefault(key, []).append(file.stem)
    names = [file.stem for file in FILES]
    assert {key: names if files == "all" else sorted(files.split(", ")) for key, files in explained.items()} == used


def test_every_ds_config_is_in_the_table():
    assert all(f"| `{file.name}`" in PAGE for file in FILES)


def test_options_and_metrics_that_the_page_names_exist():
    for group, schema in (("train", TrainConfig()), ("optim", OptimConfig())):
        for key in re.findall(rf"`{group}\.(\w+)`", PAGE):
            assert hasattr(schema, key), f"{group}.{key}"


def test_stage_0_gives_the_same_bits_as_stage_1_and_a_gradient_norm(corpus, tmp_path):
    zero, one = (train(small_config(corpus, tmp_path / stage, "jepa_vcr"), f"{stage}.json") for stage in ("zero0", "zero1"))
    assert zero == one
    norms = [
        [json.loads(line)["grad_norm"] for line in (tmp_path / stage / "metrics.jsonl").read_text().splitlines()]
        for stage in ("zero0", "zero1")
    ]
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)


def test_an_optimizer_in_host_memory_gives_the_losses_of_stage_3(corpus, tmp_path):
    whole, offloaded = (
        train(small_config(corpus, tmp_path / name, "jepa", "train.steps=2"), f"{name}.json")
        for name in ("zero3", "zero3_offload")
    )
    assert offloaded == pytest.approx(whole, abs=1e-6)


def test_a_second_shard_within_a_node_changes_no_loss(corpus, tmp_path):
    """What of ZeRO++ a CPU has, two ranks being one node; the teacher moves fast, so that a stale shard of it would show."""
    plain = json.loads(DEFAULT_DS_CONFIG.with_name("zeropp.json").read_text())
    plain["zero_optimization"] |= {"zero_quantized_weights": False, "zero_quantized_gradients": False}
    losses = []
    for shards in (1, 2):
        plain["zero_optimization"] |= {"zero_hpz_partition_size": shards, "stage3_param_persistence_threshold": 0}
        (tmp_path / "zeropp.json").write_text(json.dumps(plain))
        words = ("objective.ema_start=0.5", "objective.ema_end=0.5", "optim.lr=1e-2", "optim.lr_start=1e-2")
        losses.append(train(small_config(corpus, tmp_path / str(shards), "jepa", *words), str(tmp_path / "zeropp.json")))
    assert losses[1] == pytest.approx(losses[0], abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_one_two_and_four_ranks_train_alike(corpus, tmp_path, objective):
    words = MILLIMETRES.get(objective, ())
    one, two, four = (train(small_config(corpus, tmp_path / str(world), objective, *words), world=world) for world in (1, 2, 4))
    assert two == pytest.approx(one, abs=2e-6)
    assert four == pytest.approx(one, abs=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_trains_alike_at_every_stage(corpus, tmp_path, objective):
    zero, one, two, three = (
        train(small_config(corpus, tmp_path / f"zero{stage}", objective, "train.steps=3"), f"zero{stage}.json")
        for stage in range(4)
    )
    assert zero == one == two
    assert three == pytest.approx(one, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["mae", "mae_spectral", "jepa", "hybrid"])
def test_accumulated_micro_steps_equal_one_large_one_for_means_over_samples(corpus, tmp_path, objective):
    whole, parts = (
        train(small_config(corpus, tmp_path / str(number), objective, f"train.accumulation={number}")) for number in (1, 2)
    )
    assert parts == pytest.approx(whole, abs=2e-6)


def test_the_page_names_every_number_of_the_meter():
    meter = Meter(1, 1, torch.device("cpu"))
    meter.add_step(1.0, 1)
    assert all(f"`{name}`" in PAGE for name in meter.report())
