"""Real files that break under a real run on two gloo ranks."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import deepspeed  # noqa: F401  imported before the fork, once for all ranks
import pytest

from mri_fm.config import Config, load_config
from mri_fm.data.corpus import Corpus, Sample
from mri_fm.engine.checkpoint import find_checkpoint
from mri_fm.engine.environment import read_environment, start_process_group
from mri_fm.engine.feeding import forked_workers
from mri_fm.engine.loop import EXIT_DONE, Trainer, run_training
from mri_fm.engine.setup import DEFAULT_DS_CONFIG, read_ds_config
from mri_fm.engine.stored import read_meta
from mri_fm.errors import UserError
from mri_fm.observe.recorder import read_metrics
from tests.distributed import run_ranks

SMALL = """
model.width=24 model.depth=1 model.heads=3 data.size=[8,16,16] train.global_batch=4 train.steps=12 log_every=1 seed=3
model.predictor.width=24 model.predictor.depth=1 model.decoder.width=24 model.decoder.depth=1 model.patch=[4,4,4]
model.predictor.heads=3 model.decoder.heads=3 wandb.mode=disabled observe.every=0 checkpoint.every=4
""".split()

LAYOUTS = ((1, 0), (2, 2))  # ranks, workers


@pytest.fixture
def own_corpus(corpus: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(corpus, tmp_path / "own"))


def small_config(corpus: Path, run_dir: Path, *words: str) -> Config:
    return load_config("mae", [f"data.corpus={corpus}", f"run.dir={run_dir}", *SMALL, *words])


def flip_bytes(sample: Sample) -> None:
    with Path(sample.shard).open("r+b") as file:
        file.seek(sample.offset + 100)
        file.write(bytes(255 - byte for byte in file.read(8)))


def train_rank(rank: int, config: Config, damage: Callable[[int], None] | None) -> tuple[int | str, list[int]]:
    """Train; `damage(step)` runs on rank 0 after each logged step. Returns the exit code or the error, and the skips' total."""
    environment = read_environment()
    record = Trainer._record
    totals: list[int] = []

    def record_and_damage(self: Trainer, done: int, *rest: Any) -> None:
        record(self, done, *rest)
        totals.append(self.control.skipped.total)
        if damage is not None and rank == 0:
            damage(done)

    Trainer._record = record_and_damage  # in this forked rank alone
    with forked_workers(config, environment) as loader:
        start_process_group(environment)
        try:
            return run_training(config, read_ds_config(DEFAULT_DS_CONFIG), environment, loader), totals
        except UserError as error:
            return str(error), totals


def losses(config: Config) -> list[float]:
    return [record["loss"] for record in read_metrics(Path(config.run.dir))]


def test_collapse_metrics_leave_out_a_bad_volume_of_their_fixed_batch(own_corpus: Path, tmp_path: Path) -> None:
    flip_bytes(Corpus.open(own_corpus).select("train")[0])
    words = ("data.skip_budget=99", "data.verify=size", "observe.every=1", "train.steps=2", "checkpoint.every=2")
    config = small_config(own_corpus, tmp_path / "run", *words)
    assert [code for code, _ in run_ranks(train_rank, 2, config, None)] == [EXIT_DONE] * 2
    assert all(record["feature_std"] > 0 for record in read_metrics(tmp_path / "run"))


@pytest.mark.slow
def test_skips_count_over_all_ranks_and_over_a_resume(own_corpus: Path, tmp_path: Path) -> None:
    """A volume goes bad in the first epoch; it is met again in each of the next ones, by whichever rank."""
    victim = Corpus.open(own_corpus).select("train")[0]

    def damage(step: int) -> None:
        if step == 1:
            flip_bytes(victim)

    whole = small_config(own_corpus, tmp_path / "run", "data.skip_budget=2", "data.verify=size")
    first, second = run_ranks(train_rank, 2, whole, damage)
    assert first == second
    assert f"3 bad samples exceed data.skip_budget=2: {victim.key} in {Path(victim.shard).name} (the payload's" in first[0]
    records = read_metrics(Path(whole.run.dir))
    assert [record["skips"] for record in records] == first[1]
    assert records[0]["skips"] == 0
    assert records[-1]["skips"] == 2
    saved = read_meta(find_checkpoint(tmp_path / "run"))
    assert saved["skips"] == records[saved["step"] - 1]["skips"]
    again = run_ranks(train_rank, 2, whole, None)
    assert again[0][0] == again[1][0]
    assert "3 bad samples exceed data.skip_budget=2" in again[0][0]
    patient = small_config(own_corpus, tmp_path / "run", "data.skip_budget=99", "data.verify=size")
    codes = run_ranks(train_rank, 2, patient, None)
    assert [code for code, _ in codes] == [EXIT_DONE] * 2
    totals = [record["skips"] for record in read_metrics(Path(patient.run.dir))]
    assert totals == sorted(totals)
    assert totals[: len(records)] == [record["skips"] for record in records]
    assert totals[-1] > 3


def test_the_losses_after_a_fault_do_not_depend_on_ranks_or_workers(own_corpus: Path, tmp_path: Path) -> None:
    flip_bytes(Corpus.open(own_corpus).select("train")[0])
    words = ("data.skip_budget=999", "data.verify=size", "train.steps=3", "checkpoint.every=99")
    configs = [small_config(own_corpus, tmp_path / str(world), *words, f"data.workers={workers}") for world, workers in LAYOUTS]
    for config, (world, _) in zip(configs, LAYOUTS, strict=True):
        assert [code for code, _ in run_ranks(train_rank, world, config, None)] == [EXIT_DONE] * world
    one, two = ([record["skips"] for record in read_metrics(Path(config.run.dir))] for config in configs)
    assert one == two
    assert one[-1] > 0
    assert losses(configs[1]) == pytest.approx(losses(configs[0]), abs=2e-6)
