"""The model of memory against the tensors that DeepSpeed makes, on two ranks."""

import deepspeed  # noqa: F401  imported before the fork, once for all ranks
import pytest

from launch.planning.memory import Memory, Zero, memory
from launch.planning.trace import trace
from mri_fm.config import load_config
from tests.distributed import run_ranks
from tests.launch.counted import count_rank

BUCKET = 300_000  # elements: less than the model has, as on a cluster
SHARDINGS = [
    {"zero_optimization": {"stage": stage, "reduce_bucket_size": BUCKET, "allgather_bucket_size": BUCKET}} for stage in (1, 2)
] + [{"zero_optimization": {"stage": 3, "reduce_bucket_size": BUCKET, "stage3_prefetch_bucket_size": BUCKET}}]
WORDS = """
data.corpus=C run.dir=R data.size=[32,64,64] train.global_batch=4 model.width=192 model.depth=4 model.heads=3
model.predictor.width=96 model.predictor.depth=2 model.predictor.heads=3
model.decoder.width=96 model.decoder.depth=2 model.decoder.heads=3
""".split()
PLAIN = ("jepa_vcr", "bf16", ())
OTHERS = [
    ("mae_spectral", "fp32", ()),
    ("jepa", "fp32", ("objective.mask_sets=2", "objective.token_budget=0.5")),
    ("mae", "bf16", ("model.position=rope", "model.qk_norm=true", "model.mlp=swiglu", "model.registers=4")),
    ("jepa_vcr", "bf16", ("model.layer_scale=1e-5", "model.drop_path=0.1")),
]


@pytest.mark.parametrize(
    ("objective", "precision", "words"), [PLAIN, *(pytest.param(*other, marks=pytest.mark.slow) for other in OTHERS)]
)
def test_predicted_bytes_are_those_of_the_tensors(objective, precision, words):
    config = load_config(objective, [*WORDS, *words, f"train.precision={precision}"])
    micro = trace(config, 2, precision)
    for sharding, counted in zip(SHARDINGS, run_ranks(count_rank, 2, config, SHARDINGS)[0], strict=True):
        predicted = memory(micro, Zero.of(sharding), world=2, precision=precision, accumulation=1)
        for name, held in counted.items():
            assert getattr(predicted, name) == pytest.approx(held, rel=0.05), (sharding, name)
        assert predicted.total - predicted.workspace == pytest.approx(sum(counted.values()), rel=0.02)


def test_what_is_left_out_takes_deepspeeds_defaults():
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    theirs = DeepSpeedZeroConfig(stage=3)
    ours = Zero.of({"zero_optimization": {"stage": 3}})
    assert ours.bucket == theirs.reduce_bucket_size
    assert ours.live == theirs.max_live_parameters == theirs.max_reuse_distance
    assert (ours.persistent, ours.overlap) == (theirs.param_persistence_threshold, theirs.overlap_comm)
    assert Zero.of({"zero_optimization": {"stage": 2}}).overlap == DeepSpeedZeroConfig(stage=2).overlap_comm


@pytest.mark.parametrize("part", ["parameters", "gradients", "optimizer", "teacher"])
def test_a_thousand_ranks_hold_less_each(part):
    micro = trace(load_config("jepa_vcr", WORDS), 2, "bf16")
    zero = Zero(stage=3, bucket=0, live=0, persistent=0, offload=False, overlap=True, quantized=False)
    two, many = (memory(micro, zero, world=world, precision="bf16", accumulation=1) for world in (2, 1024))
    assert getattr(many, part) < getattr(two, part) / 200


def test_offloaded_states_and_a_kept_gradient_are_counted():
    micro = trace(load_config("mae", WORDS), 2, "bf16")
    offload = Zero.of({"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "cpu"}}})
    assert memory(micro, offload, world=2, precision="bf16", accumulation=1).optimizer == 0
    one, two = (memory(micro, Zero.of(SHARDINGS[0]), world=2, precision="bf16", accumulation=k) for k in (1, 2))
    assert two.gradients - one.gradients == pytest.approx(sum(micro.trained))  # half of them, in bf16
    assert isinstance(one, Memory)
