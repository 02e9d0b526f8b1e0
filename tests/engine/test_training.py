"""Real training on two forked gloo ranks: stages agree, ranks agree, and a resume is bitwise."""

import json
import shutil
from itertools import islice
from pathlib import Path
from typing import Any

import deepspeed  # noqa: F401  imported before the fork, once for all ranks
import pyarrow.parquet as pq
import pytest
import torch
import xxhash
from safetensors.torch import save_file

from mri_fm.config import Config, config_from_yaml, load_config
from mri_fm.data.corpus import Corpus
from mri_fm.data.schema import CORPUS_FILE, MANIFEST_FILE
from mri_fm.engine.checkpoint import find_checkpoint
from mri_fm.engine.environment import Environment, read_environment, start_process_group
from mri_fm.engine.initial import REPORT_FILE, read_initial
from mri_fm.engine.loop import EXIT_DONE, Trainer, build_loader, run_training
from mri_fm.engine.publication import CHECKSUM_FILE
from mri_fm.engine.setup import DEFAULT_DS_CONFIG, build_objective, read_ds_config
from mri_fm.engine.weights import LoadedObjective, load_objective
from mri_fm.errors import UserError
from mri_fm.objectives import Objective
from mri_fm.observe.recorder import read_metrics
from tests.distributed import run_ranks

SMALL = """
model.width=48 model.depth=2 model.heads=3 data.size=[16,32,32] train.global_batch=4 train.steps=4 log_every=1 seed=3
model.predictor.width=48 model.predictor.depth=1 model.decoder.width=48 model.decoder.depth=1
model.predictor.heads=3 model.decoder.heads=3 wandb.mode=disabled observe.every=0 checkpoint.every=2
""".split()
OBJECTIVES = ("mae", "mae_spectral", "jepa", "jepa_vcr")
MILLIMETRES = {  # which the loader has to know
    "jepa": ("model.position=rope", "model.rope_spacing=true"),
    "mae_spectral": ("objective.units=cycles_per_mm", "objective.cutoff=0.05"),
}


def small_config(corpus, run_dir, objective: str, *words: str) -> Config:
    return load_config(objective, [f"data.corpus={corpus}", f"run.dir={run_dir}", *SMALL, *words])


WATCHED = ("val.every=2", "observe.every=3", "observe.pictures=0", "log_every=4")
CLOCKS = set("step_time data_wait volumes_per_s tokens_per_s tflops mfu memory_peak_gb observe_time observe_share".split())
OBSERVED = """
feature_std feature_std_min feature_std_median feature_std_max rankme effective_rank alpha_req lidar teacher_cosine ema_distance
attention_entropy/block_00 attention_entropy/block_01 spectral_error/band_00 spectral_power/band_07 loss_dataset/small
loss_contrast/T1 loss_contrast/T2 grad_norm/embedding grad_norm/block_01 grad_norm/norm grad_norm/predictor grad_norm/decoder
update_ratio/embedding update_ratio/block_01 update_ratio/decoder observe_time observe_share
""".split()


class KilledError(Exception):
    """Stands for the kill of a rank; the end-to-end tests kill real processes."""


def train_rank(rank: int, config: Config, ds_config: str, stop_after: int | None) -> int:
    environment = read_environment()
    start_process_group(environment)
    sharding = read_ds_config(DEFAULT_DS_CONFIG.parent / ds_config)
    if stop_after is None:
        return run_training(config, sharding, environment)
    record = Trainer._record

    def record_and_die(self: Trainer, done: int, *rest: Any) -> None:
        record(self, done, *rest)
        if done == stop_after:
            raise KilledError

    Trainer._record = record_and_die  # in this forked rank alone
    with pytest.raises(KilledError):
        run_training(config, sharding, environment)
    return EXIT_DONE


def train(
    config: Config, ds_config: str = "zero1.json", world: int = 2, stop_after: int | None = None, timeout: float = 600.0
) -> list[float]:
    codes = run_ranks(train_rank, world, config, ds_config, stop_after, timeout=timeout)
    assert codes == [EXIT_DONE] * world
    return [record["loss"] for record in read_metrics(Path(config.run.dir))]


def test_stages_1_and_2_agree_bitwise_and_stage_3_within_rounding(corpus, tmp_path):
    losses = {
        stage: train(small_config(corpus, tmp_path / stage, "jepa_vcr"), f"{stage}.json")
        for stage in ("zero1", "zero2", "zero3")
    }
    assert len(losses["zero1"]) == 4
    assert losses["zero2"] == losses["zero1"]
    assert losses["zero3"] == pytest.approx(losses["zero1"], abs=1e-6)
    check_loaded_weights({stage: load_objective(tmp_path / stage) for stage in losses})


def check_loaded_weights(loaded: dict[str, LoadedObjective]) -> None:
    """Each stage writes its own format; read back they hold the same network, with a teacher of its own."""
    states = {stage: item.objective.state_dict() for stage, item in loaded.items()}
    for stage in ("zero2", "zero3"):
        for name, tensor in states["zero1"].items():
            torch.testing.assert_close(states[stage][name], tensor, atol=1e-6, rtol=1e-5)
    initial = build_objective(loaded["zero1"].config).state_dict()
    student, teacher = (states["zero1"][f"{part}.embedding.weight"] for part in ("student", "teacher"))
    moved = [float((part - initial["student.embedding.weight"]).abs().max()) for part in (student, teacher)]
    assert 0 < moved[1] < moved[0]  # the teacher follows, slowly
    assert loaded["zero1"].step == 4


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_two_ranks_train_as_one(corpus, tmp_path, objective):
    words = MILLIMETRES.get(objective, ())
    one, two = (train(small_config(corpus, tmp_path / str(world), objective, *words), world=world) for world in (1, 2))
    assert two == pytest.approx(one, abs=2e-6)
    assert len(set(one)) == 4  # the weights do move


@pytest.mark.parametrize("ds_config", ["zero1.json", "zero3.json"])
def test_a_killed_run_resumes_bitwise(corpus, tmp_path, ds_config):
    undisturbed = train(small_config(corpus, tmp_path / "a", "jepa_vcr"), ds_config)
    config = small_config(corpus, tmp_path / "b", "jepa_vcr")
    train(config, ds_config, stop_after=3)  # the checkpoint is of step 2: step 3 is done again
    left = tmp_path / "b" / "checkpoints" / "step-00000099.partial"
    left.mkdir()
    assert train(config, ds_config) == undisturbed
    assert not left.exists()
    assert state_of(tmp_path / "b") == state_of(tmp_path / "a") != {}


def state_of(run_dir: Path) -> dict[str, str]:
    """The checksums of what each rank holds at the end: weights, moments and the teacher, in fp32."""
    sums = json.loads((find_checkpoint(run_dir) / CHECKSUM_FILE).read_text())
    return {name: digest for name, digest in sums.items() if name.startswith("rank-")}


def test_a_run_starts_from_given_weights_which_a_resume_no_longer_needs(corpus, tmp_path):
    other = build_objective(small_config(corpus, tmp_path / "other", "jepa", "seed=9", "model.position=learned"))
    file = tmp_path / "weights.safetensors"
    save_file(other.student.state_dict(), file)
    config = small_config(corpus, tmp_path / "run", "jepa", "model.position=learned", f"train.init_from={file}")
    train(config, "zero3.json", stop_after=3)
    start = build_objective(config)
    read_initial(file, config.model, (16, 32, 32)).load_into(start)
    assert read_metrics(tmp_path / "run")[0]["loss"] == pytest.approx(first_loss(config, (16, 32, 32), start), abs=2e-6)
    assert first_loss(config, (16, 32, 32)) != pytest.approx(first_loss(config, (16, 32, 32), start), rel=1e-3)
    assert json.loads((tmp_path / "run" / REPORT_FILE).read_text())["drawn"] == []
    file.unlink()
    assert len(train(config, "zero3.json")) == config.train.steps


def test_layer_wise_rates_hold_at_every_stage(corpus, tmp_path):
    words = {"layers": ("optim.layer_decay=0.5", "train.steps=3"), "plain": ("train.steps=3",)}
    one, sharded, plain = (
        train(small_config(corpus, tmp_path / f"{name}{stage}", "mae", *words[name]), f"zero{stage}.json", world=world)
        for name, stage, world in (("layers", 1, 1), ("layers", 3, 2), ("plain", 1, 1))
    )
    assert sharded == pytest.approx(one, abs=1e-6)
    assert one[0] == plain[0]
    assert one[2] > plain[2]  # slower


GROWING = ("data.curriculum=[{until: 0.5, size: [16,16,16]}]", "train.accumulation=2", "checkpoint.every=1")


@pytest.mark.parametrize("objective", ["mae", pytest.param("jepa", marks=pytest.mark.slow)])
def test_a_run_trains_across_a_change_of_size_and_resumes_beside_it(corpus, tmp_path, objective):
    whole = train(small_config(corpus, tmp_path / "whole", objective, *GROWING), world=1)
    config = small_config(corpus, tmp_path / "killed", objective, *GROWING)
    train(config, stop_after=3)  # the checkpoint of step 2 lies between the sizes
    assert train(config) == pytest.approx(whole, abs=2e-6)
    assert len(set(whole)) == 4
    assert first_loss(config, size=(16, 16, 16)) == pytest.approx(whole[0], abs=2e-6)


def first_loss(config: Config, size: tuple[int, int, int], objective: Objective | None = None) -> float:
    """Of step 1 before any training, by a loop of its own; by default with the weights that the seed draws."""
    objective, environment = objective or build_objective(config), Environment(rank=0, world=1, local_rank=0, local_world=1)
    loader = build_loader(config, Corpus.open(config.data.corpus), environment)
    schedule = {name: float(values[0]) for name, values in objective.schedules(config.train.steps).items()}
    losses = []
    for batch in islice(loader, config.train.accumulation):
        assert batch.x_BCZYX.shape[2:] == size
        losses.append(float(objective(batch, schedule)[0].detach()))
    loader.close()
    return sum(losses) / len(losses)


def test_a_run_takes_views_and_contrasts_of_sessions(corpus, tmp_path):
    words = ("data.session_contrasts=2", "data.views=2", "data.crop_foreground=0.9", "data.mixture.small=1")
    one, two = (
        train(small_config(corpus, tmp_path / str(world), "jepa_vcr", *words, "train.steps=2"), world=world) for world in (1, 2)
    )
    assert two == pytest.approx(one, abs=2e-6)


def test_accumulation_equals_one_large_batch_for_a_mean_over_samples(corpus, tmp_path):
    whole, halves = (
        train(small_config(corpus, tmp_path / str(parts), "mae", f"train.accumulation={parts}"), world=1) for parts in (1, 2)
    )
    assert halves == pytest.approx(whole, abs=2e-6)


def test_bf16_trains(corpus, tmp_path):
    losses = train(small_config(corpus, tmp_path, "jepa_vcr", "train.precision=bf16"), "zero2.json")
    assert torch.isfinite(torch.tensor(losses)).all()
    assert losses[-1] < losses[0]


def test_validation_and_collapse_metrics_do_not_depend_on_the_ranks(corpus, tmp_path):
    seen = []
    for world in (1, 2):
        config = small_config(corpus, tmp_path / str(world), "hybrid", *WATCHED)
        train(config, "zero1.json" if world == 1 else "zero3.json", world=world)
        seen.append(read_metrics(Path(config.run.dir)))
    assert seen[0][-1].keys() == seen[1][-1].keys()
    assert {"val_loss", *OBSERVED} <= seen[0][-1].keys()
    for name in seen[0][-1].keys() - {"loss"} - CLOCKS:
        one, two = ([record[name] for record in records if name in record] for records in seen)
        assert one == pytest.approx(two, rel=2e-3, abs=1e-5), name
    assert [r["step"] for r in seen[0] if "val_loss" in r] == [1, 2, 4]
    assert [r["step"] for r in seen[0] if "rankme" in r] == [1, 3, 4]


def test_a_budget_left_to_the_corpus_is_settled_once_and_the_run_resumes(corpus, tmp_path):
    words = ("objective.token_budget=0", "objective.shared_mask=false", "model.patch=[4,4,4]")
    undisturbed = train(small_config(corpus, tmp_path / "a", "jepa_vcr", *words))
    settled = config_from_yaml(tmp_path / "a" / "config.yaml").objective.token_budget
    assert 0.2 < settled < 1
    config = small_config(corpus, tmp_path / "b", "jepa_vcr", *words)
    train(config, stop_after=3)
    assert train(config) == undisturbed


def train_and_be_refused(rank: int, config: Config, ds_config: str) -> str:
    environment = read_environment()
    start_process_group(environment)
    with pytest.raises(UserError) as caught:
        run_training(config, read_ds_config(DEFAULT_DS_CONFIG.with_name(ds_config)), environment)
    return str(caught.value)


def refusal(config: Config, ds_config: str = "zero1.json") -> str:
    """What both of two ranks say of a mistake that one of them alone may see."""
    first, second = run_ranks(train_and_be_refused, 2, config, ds_config)
    assert first == second
    assert "\n" not in first
    return first


def test_what_rank_0_alone_sees_stops_all_ranks(corpus, tmp_path):
    altered = tmp_path / "altered"
    shutil.copytree(corpus, altered)
    shard = next((altered / "shards").glob("train-*.tar"))
    shard.write_bytes(shard.read_bytes().replace(b"\x01", b"\x02", 1))
    assert shard.name in refusal(small_config(altered, tmp_path / "run", "mae"))
    (tmp_path / "file").touch()
    assert "cannot be written" in refusal(small_config(corpus, tmp_path / "file", "mae"))


def test_a_checkpoint_is_read_only_under_the_settings_it_depends_on(corpus, tmp_path):
    config = small_config(corpus, tmp_path / "run", "mae", "train.steps=2")
    train(config)
    for word in ("train.precision=bf16", "data.contrasts=[T1]"):
        assert f"{word.partition('=')[0]} differ" in refusal(small_config(corpus, tmp_path / "run", "mae", word))
    grown = tmp_path / "grown"
    shutil.copytree(corpus, grown)
    rewrite_manifest(grown)
    assert "data.corpus differ" in refusal(small_config(grown, tmp_path / "run", "mae"))


def rewrite_manifest(corpus: Path) -> None:
    """Another corpus of the same specification: one volume fewer."""
    manifest, info = corpus / MANIFEST_FILE, corpus / CORPUS_FILE
    pq.write_table(pq.read_table(manifest).slice(1), manifest)
    content = json.loads(info.read_text())
    content["checksums"][MANIFEST_FILE] = xxhash.xxh3_64(manifest.read_bytes()).hexdigest()
    info.write_text(json.dumps(content))


MOVES = (
    (1, "zero1", 2, "zero3"),
    (2, "zero3", 1, "zero1"),
    pytest.param(2, "zero1", 1, "zero1", marks=pytest.mark.slow),
    pytest.param(2, "zero2", 2, "zero1", marks=pytest.mark.slow),
)


@pytest.mark.parametrize(("before", "ds_before", "after", "ds_after"), MOVES)
def test_a_run_goes_on_with_other_ranks_and_another_stage(corpus, tmp_path, before, ds_before, after, ds_after):
    """As if the new ranks and stage had trained from the start; weights of two groups and the teacher are in every loss."""
    words = ("optim.weight_decay=0.5", "optim.weight_decay_end=0.5", "optim.lr=0.002", "objective.ema_start=0.9")
    undisturbed = train(small_config(corpus, tmp_path / "a", "jepa_vcr", *words), f"{ds_after}.json", after)
    config = small_config(corpus, tmp_path / "b", "jepa_vcr", *words)
    train(config, f"{ds_before}.json", before, stop_after=3)
    assert train(config, f"{ds_after}.json", after) == pytest.approx(undisturbed, abs=2e-6)


@pytest.mark.slow
def test_a_run_goes_on_with_fewer_ranks_and_more_micro_steps(corpus, tmp_path):
    """As if it had been so from the start, where losses are means over samples."""
    undisturbed = train(small_config(corpus, tmp_path / "a", "mae"), world=1)
    config = small_config(corpus, tmp_path / "b", "mae")
    train(config, world=2, stop_after=3)
    config.train.accumulation = 4
    assert train(config, world=1) == pytest.approx(undisturbed, abs=2e-6)


def test_validation_needs_a_val_split(corpus, tmp_path):
    only_t2 = small_config(corpus, tmp_path / "run", "mae", "val.every=1", "data.contrasts=[T2]")  # all T2 are for training
    assert "val split" in refusal(only_t2)


def test_weights_that_have_diverged_are_not_kept(corpus, tmp_path):
    """Step 2 is not logged, but it is a checkpoint's."""
    words = ("optim.lr=1e30", "optim.lr_start=1e30", "log_every=9", "train.steps=9")
    assert "at step 2" in refusal(small_config(corpus, tmp_path, "mae", *words))
    assert not list((tmp_path / "checkpoints").glob("step-*"))


def test_a_gradient_that_is_not_finite_ends_a_bf16_run_too(corpus, tmp_path):
    """Errors to the power of 40 have a finite mean and gradients whose squares overflow."""
    words = ("train.precision=bf16", "objective.power=40")
    assert "not finite at step 1" in refusal(small_config(corpus, tmp_path, "mae", *words))


def test_a_finished_run_adds_nothing(corpus, tmp_path):
    config = small_config(corpus, tmp_path, "mae")
    train(config, world=1)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    train(config, world=1)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
