"""Ranks that share out tokens train as one rank that has them all; what they cannot share is refused."""

import deepspeed  # noqa: F401  imported before the fork, once for all ranks
import pytest
import torch

from mri_fm.data.skips import Skip, SkipCount
from mri_fm.engine.control import Control
from mri_fm.engine.environment import Environment, read_environment
from mri_fm.engine.sequence_parallel import build_groups, check_shares, data_place
from mri_fm.engine.setup import build_objective, complete_ds_config
from mri_fm.errors import ResumableError, UserError
from mri_fm.losses.vcr import variance_covariance
from mri_fm.observe.recorder import read_metrics
from tests.distributed import run_ranks
from tests.engine.test_training import small_config, train

TWO = "train.sequence_parallel=2"


@pytest.mark.parametrize(
    ("objective", "ds_config", "words"),
    [
        ("mae", "zero3.json", ("model.position=rope", "model.registers=3", "train.checkpoint_activations=true")),
        ("jepa_vcr", "zero1.json", ("val.every=2", "observe.every=4", "observe.pictures=0", "train.accumulation=2")),
    ],
)
def test_two_ranks_that_share_out_tokens_train_as_one(corpus, tmp_path, objective, ds_config, words):
    heads = ("model.heads=2", "model.predictor.heads=2", "model.decoder.heads=2", *words)
    whole = train(small_config(corpus, tmp_path / "one", objective, *heads), ds_config, world=1)
    config = small_config(corpus, tmp_path / "two", objective, *heads, TWO)
    assert train(config, ds_config) == pytest.approx(whole, abs=2e-6)
    one, two = (read_metrics(tmp_path / name)[-1] for name in ("one", "two"))
    for name in one.keys() & {"val_loss", "grad_norm", "loss_variance", "rankme", "samples"}:
        assert two[name] == pytest.approx(one[name], rel=1e-3), name


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["mae_spectral", "jepa_vcr", "jepa_sigreg", "hybrid"])
def test_four_ranks_share_out_samples_and_tokens(corpus, tmp_path, objective):
    words = ("model.heads=2", "model.predictor.heads=2", "model.decoder.heads=2", "val.every=2")
    whole = train(small_config(corpus, tmp_path / "one", objective, *words), world=1)
    assert train(small_config(corpus, tmp_path / "four", objective, *words, TWO), "zero2.json", world=4) == pytest.approx(
        whole, abs=2e-6
    )
    one, four = (read_metrics(tmp_path / name)[-1]["val_loss"] for name in ("one", "four"))
    assert four == pytest.approx(one, rel=1e-5)


@pytest.mark.slow
def test_a_run_goes_on_with_tokens_shared_out(corpus, tmp_path):
    words = ("model.heads=2", "model.predictor.heads=2")
    undisturbed = train(small_config(corpus, tmp_path / "a", "jepa", *words), world=1)
    train(small_config(corpus, tmp_path / "b", "jepa", *words), world=1, stop_after=3)
    assert train(small_config(corpus, tmp_path / "b", "jepa", *words, TWO), "zero3.json") == pytest.approx(
        undisturbed, abs=2e-6
    )


def take_places(rank: int) -> tuple[tuple[int, int], int, list[float]]:
    """Rank and ranks for the loader, rank in the sequence group, and the statistics of a batch of two samples."""
    torch.distributed.init_process_group("gloo")
    environment = read_environment()
    groups = build_groups(environment, 2)
    sample, world = data_place(environment, 2)
    z_2ND = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))
    own_BND = z_2ND[sample : sample + 1]
    seen = variance_covariance(own_BND[:, :2], own_BND[:, 2:], group=groups.batch)
    alone = torch.distributed.new_group([rank], use_local_synchronization=True)
    whole = variance_covariance(z_2ND[:, :2], z_2ND[:, 2:], group=alone)
    return (sample, world), groups.sequence.rank, [float(a - b) for a, b in zip(seen, whole, strict=True)]


def test_neighbours_have_the_same_samples_and_statistics_count_each_once():
    places, shares, differences = zip(*run_ranks(take_places, 4), strict=True)
    assert places == ((0, 2), (0, 2), (1, 2), (1, 2))
    assert shares == (0, 1, 0, 1)
    assert max(abs(value) for pair in differences for value in pair) < 1e-6


def skip(rank: int, positions: tuple[tuple[int, ...], ...]) -> int | str:
    torch.distributed.init_process_group("gloo")
    control = Control(SkipCount(9, "corpus"), sequence=2)
    control.note([Skip(position, f"key{position}", "shard", f"rank {rank}") for position in positions[rank]])
    try:
        control.agree()
    except ResumableError as error:
        return str(error)
    return control.skipped.total


def test_a_skip_of_a_sequence_group_counts_once_and_all_its_ranks_must_have_it():
    assert run_ranks(skip, 4, ((0,), (0,), (1, 3), (1, 3))) == [3] * 4
    (message,) = set(run_ranks(skip, 4, ((), (), (), (3,))))
    assert message == (
        "rank 3 could read what rank 2 of the same samples could not, or the reverse: key3 in shard (rank 3); "
        "the same command goes on from the last checkpoint"
    )


FOUR = Environment(rank=0, world=4, local_rank=0, local_world=4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("train.sequence_parallel=3",), "train.sequence_parallel=3 does not divide the 4 ranks"),
        (("train.sequence_parallel=8",), "train.sequence_parallel=8 does not divide the 4 ranks"),
        ((TWO, "train.global_batch=3"), "train.global_batch=3 does not divide by 1 micro-steps x 2 groups of 2 ranks"),
        (("train.sequence_parallel=0",), "train.sequence_parallel=0 must be 1"),
    ],
)
def test_groups_that_ranks_cannot_form_are_refused(tmp_path, words, message):
    with pytest.raises(UserError, match=message):
        complete_ds_config({}, small_config("none", tmp_path, "mae", *words), FOUR)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((TWO, "train.compile=true"), "train.compile=true cannot follow train.sequence_parallel"),
        ((TWO, "model.heads=2"), "train.sequence_parallel=2 does not divide the 3 heads of the decoder"),
        (("train.sequence_parallel=3", "data.size=[8,8,16]"), r"more than the 1 visible tokens of an input of \[8, 8, 16\]"),
        (
            ("train.sequence_parallel=3", "data.curriculum=[{until: 0.5, size: [8,8,24]}]"),
            r"more than the 1 visible tokens of an input of \[8, 8, 24\]",
        ),
    ],
)
def test_what_ranks_cannot_share_is_refused(tmp_path, words, message):
    config = small_config("none", tmp_path, "mae", *words)
    with pytest.raises(UserError, match=message):
        check_shares(build_objective(config), config)


def test_deepspeed_is_told_the_micro_batch_of_a_rank(tmp_path):
    config = small_config("none", tmp_path, "mae", TWO)
    told = complete_ds_config({}, config, FOUR)
    assert (told["train_micro_batch_size_per_gpu"], told["train_batch_size"]) == (2, 8)
