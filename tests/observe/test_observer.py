"""What the observer says of a batch in which one data set is spoilt, and of an encoder that has collapsed."""

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import pytest
import torch

from mri_fm.config import load_config
from mri_fm.data.corpus import Corpus
from mri_fm.engine.environment import read_environment, start_process_group
from mri_fm.engine.setup import build_objective
from mri_fm.inputs import Inputs
from mri_fm.observe.fixed import FixedBatch
from mri_fm.observe.observer import Observer
from tests.distributed import run_ranks

WORDS = """
model.width=24 model.depth=2 model.heads=3 data.size=[8,16,16] model.patch=[4,4,4] run.dir=R
model.decoder.width=24 model.decoder.depth=1 model.decoder.heads=3
""".split()
SICK = (1, 4)


class SpoiltBatch(FixedBatch):
    """Some volumes are ten times as bright."""

    def batches(self) -> Iterator[Inputs]:
        for batch in super().batches():
            factor_B = torch.tensor([10.0 if position in SICK else 1.0 for position in batch.positions_B.tolist()])
            yield replace(batch, x_BCZYX=batch.x_BCZYX * factor_B[:, None, None, None, None])


class Seen(NamedTuple):
    healthy: dict[str, float]
    collapsed: dict[str, float]
    losses: list[float]  # of each volume, by the objective itself
    groups: list[tuple[str, str]]  # data set and contrast of each


def observe_rank(rank: int, corpus) -> Seen:
    environment = read_environment()
    start_process_group(environment)
    opened = Corpus.open(corpus, verify="size")
    config = load_config("mae", [*WORDS, f"data.corpus={corpus}"])
    samples = [replace(s, dataset="sick" if n in SICK else "healthy") for n, s in enumerate(opened.samples[:6])]
    fixed = SpoiltBatch(opened, samples, config.data, environment)
    objective = build_objective(config).eval()
    observer = Observer(objective, fixed)
    healthy = {name: float(value) for name, value in observer.observe().items()}
    with torch.no_grad():
        losses = torch.cat([objective.sample_losses(batch) for batch in fixed.batches()]).tolist()
        objective.student.norm.weight *= 1e-6  # all volumes get the same tokens
        objective.student.norm.bias += 1.0
    collapsed = {name: float(value) for name, value in observer.observe().items()}
    return Seen(healthy, collapsed, losses, [(s.dataset, s.contrast) for s in fixed.samples])


@pytest.fixture(scope="module")
def seen(corpus) -> Seen:
    return run_ranks(observe_rank, 1, corpus)[0]


def test_losses_of_groups_are_means_over_their_volumes_and_show_which_one_is_sick(seen):
    for kind, part in (("dataset", 0), ("contrast", 1)):
        for name in {group[part] for group in seen.groups}:
            own = [loss for loss, group in zip(seen.losses, seen.groups, strict=True) if group[part] == name]
            assert seen.healthy[f"loss_{kind}/{name}"] == pytest.approx(sum(own) / len(own), rel=1e-5)
    assert seen.healthy["loss_dataset/sick"] > 20 * seen.healthy["loss_dataset/healthy"]


def test_a_collapsed_encoder_shows_in_the_spread_and_in_the_rank(seen):
    assert seen.collapsed["feature_std"] < 1e-4 * seen.healthy["feature_std"]
    assert seen.collapsed["rankme"] == pytest.approx(1, abs=0.01)
    assert seen.healthy["rankme"] > 1.2
    for name in ("attention_entropy/block_00", "attention_entropy/block_01"):  # before the norm: it sees no difference
        assert seen.collapsed[name] == pytest.approx(seen.healthy[name])
