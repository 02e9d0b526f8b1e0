import json

import deepspeed.ops
import pytest
import torch

from mri_fm.config import load_config
from mri_fm.engine.environment import Environment
from mri_fm.engine.setup import DEFAULT_DS_CONFIG, build_objective, complete_ds_config, parameter_groups, read_ds_config
from mri_fm.errors import UserError

ONE_RANK = Environment(rank=0, world=1, local_rank=0, local_world=1)
WORDS = ["data.corpus=C", "run.dir=R", "model.depth=1", "train.global_batch=8"]


def config(*words: str, objective: str = "jepa_vcr"):
    return load_config(objective, [*WORDS, *words])


@pytest.mark.parametrize("name", ["zero0", "zero1", "zero2", "zero3", "zero3_offload", "zeropp"])
def test_every_shipped_ds_config_is_accepted_by_deepspeed(name):
    from deepspeed.runtime.config import DeepSpeedConfig

    sharding = read_ds_config(DEFAULT_DS_CONFIG.with_name(f"{name}.json"))
    completed = sharding | complete_ds_config({}, config(), ONE_RANK)
    assert DeepSpeedConfig(completed).zero_optimization_stage == sharding["zero_optimization"]["stage"]


def test_what_these_ranks_cannot_do_is_refused_before_training():
    zeropp = read_ds_config(DEFAULT_DS_CONFIG.with_name("zeropp.json"))
    if not torch.cuda.device_count():
        with pytest.raises(UserError, match="zero_quantized_weights"):
            complete_ds_config(zeropp, config(), ONE_RANK)
    twelve = Environment(rank=0, world=12, local_rank=0, local_world=6)
    with pytest.raises(UserError, match=r"zero_hpz_partition_size=8 .* 12 ranks"):
        complete_ds_config({"zero_optimization": {"zero_hpz_partition_size": 8}}, config("train.global_batch=12"), twelve)


def test_zero1_is_the_default():
    assert read_ds_config(DEFAULT_DS_CONFIG)["zero_optimization"]["stage"] == 1


@pytest.mark.parametrize("key", ["train_batch_size", "bf16", "optimizer", "gradient_clipping"])
def test_a_ds_config_that_sets_what_ours_owns_is_refused(tmp_path, key):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"zero_optimization": {"stage": 1}, key: 1}))
    with pytest.raises(UserError, match=key):
        read_ds_config(path)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[]", "JSON object"),
        ('{"zero_optimization": 5}', "must be an object"),
        ('{"zero_optimization": {"stage": 7}}', r"zero_optimization\.stage"),
        ('{"zero_optimization": {"stage": 1, "reduce_buket_size": 5}}', "reduce_buket_size"),
    ],
)
def test_a_ds_config_that_deepspeed_refuses_is_one_line(tmp_path, text, named):
    path = tmp_path / "mine.json"
    path.write_text(text)
    with pytest.raises(UserError, match=named) as caught:
        read_ds_config(path)
    assert "\n" not in str(caught.value)


def test_missing_and_malformed_ds_configs_are_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.json"):
        read_ds_config(tmp_path / "nowhere.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        read_ds_config(tmp_path / "bad.json")


def test_the_batch_is_split_over_ranks_and_micro_steps():
    two = Environment(rank=0, world=2, local_rank=0, local_world=2)
    completed = complete_ds_config({}, config("train.accumulation=2"), two)
    batch = [completed[k] for k in ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")]
    assert batch == [8, 2, 2]


def test_a_batch_that_does_not_divide_is_refused():
    three = Environment(rank=0, world=3, local_rank=0, local_world=3)
    with pytest.raises(UserError, match="global_batch"):
        complete_ds_config({}, config(), three)


def test_a_stage_of_the_curriculum_that_the_objective_cannot_use_is_refused_before_the_first_step():
    """No frequency of its size lies in the band, though some of the final size do."""
    words = ["objective.cutoff=0.94", "objective.cutoff_high=0.959", "data.size=[16,32,32]"]
    build_objective(config(*words, objective="mae_spectral"))
    with pytest.raises(UserError, match=r"no frequency of a volume of \(8, 8, 16\) voxels"):
        build_objective(config(*words, "data.curriculum=[{until: 0.5, size: [8,8,16]}]", objective="mae_spectral"))


def test_bf16_without_zero_is_refused():
    with pytest.raises(UserError, match="stage 1"):
        complete_ds_config({"zero_optimization": {"stage": 0}}, config("train.precision=bf16"), ONE_RANK)


def test_biases_norms_and_tokens_do_not_decay_and_the_teacher_is_not_trained():
    objective = build_objective(config())
    names = {id(parameter): name for name, parameter in objective.named_parameters()}
    decayed, free = ({names[id(p)] for p in group["params"]} for group in parameter_groups(objective.named_parameters()))
    assert decayed
    assert all(name.endswith("weight") and "norm" not in name for name in decayed)
    assert any("mask_token" in name for name in free)
    trained = {name for name, parameter in objective.named_parameters() if parameter.requires_grad}
    assert decayed | free == trained
    assert not any(name.startswith("teacher") for name in trained)


def test_layers_learn_more_slowly_towards_the_patches_and_heads_at_the_full_rate():
    objective = build_objective(config("model.depth=2", "model.registers=2"))
    names = {id(parameter): name for name, parameter in objective.named_parameters()}
    groups = parameter_groups(objective.named_parameters(), 0.5, 2)
    rates = {names[id(parameter)]: group["lr_scale"] for group in groups for parameter in group["params"]}
    assert rates["student.embedding.weight"] == rates["student.register_token"] == 0.125
    assert rates["student.blocks.0.attention.qkv.weight"] == rates["student.blocks.0.norm_mlp.bias"] == 0.25
    assert rates["student.blocks.1.mlp.up.weight"] == 0.5
    assert rates["student.norm.weight"] == 1.0
    assert {rate for name, rate in rates.items() if not name.startswith("student.")} == {1.0}
    assert len(rates) == sum(parameter.requires_grad for parameter in objective.parameters())
    assert {names[id(p)] for group in groups if group["decay"] for p in group["params"]} == {
        names[id(p)] for group in parameter_groups(objective.named_parameters())[:1] for p in group["params"]
    }


def test_initial_weights_depend_on_the_seed_alone():
    torch.manual_seed(1)
    first = build_objective(config()).state_dict()
    torch.rand(7)
    again, other = build_objective(config()).state_dict(), build_objective(config("seed=1")).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["student.embedding.weight"], other["student.embedding.weight"])


def test_the_extension_that_only_inference_needs_still_has_the_name_we_switch_off():
    assert "deepspeed_shm_comm" in deepspeed.ops.__compatible_ops__
