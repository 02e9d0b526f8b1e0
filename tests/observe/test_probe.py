from pathlib import Path

import deepspeed  # noqa: F401  before the fork
import numpy as np
import pytest
import torch

from mri_fm.config import load_config
from mri_fm.data.corpus import Corpus
from mri_fm.engine.environment import Environment
from mri_fm.engine.setup import build_objective
from mri_fm.engine.weights import load_objective
from mri_fm.errors import UserError
from mri_fm.observe.probe import OnlineProbe, cross_validate
from mri_fm.observe.recorder import read_metrics
from tests.engine.test_training import small_config, train

PROBE = ("observe.probe.label=contrast", "observe.probe.every=2", "observe.probe.neighbours=3", "observe.probe.unit=key")


def features(separation: float, classes: int = 2) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two volumes of each of 40 people."""
    draws = np.random.default_rng(0)
    unit = np.repeat(np.arange(40), 2)
    label = unit % classes
    centre = draws.normal(size=(classes, 16))
    return draws.normal(size=(80, 16)) + separation * centre[label], label, unit


@pytest.mark.parametrize("classes", [2, 3])
def test_classes_that_are_apart_are_found_and_noise_is_not(classes):
    config = load_config("mae", ["data.corpus=C", "run.dir=R"])
    apart = cross_validate(*features(3.0, classes), config)
    noise = cross_validate(*features(0.0, classes), config)
    assert set(apart) == {"probe/linear_auroc", "probe/knn_auroc"}
    assert min(apart.values()) > 0.97
    assert all(0.3 < value < 0.7 for value in noise.values())


def test_volumes_of_one_unit_never_teach_each_other():
    """Features name the person alone: a probe that saw the other volume of a person would know the label."""
    config = load_config("mae", ["data.corpus=C", "run.dir=R", "observe.probe.neighbours=1"])
    draws = np.random.default_rng(1)
    unit = np.repeat(np.arange(40), 2)
    label = draws.permutation(np.arange(40) % 2)[unit]
    person = draws.normal(size=(40, 64))[unit] + 1e-3 * draws.normal(size=(80, 64))
    assert cross_validate(person, label, unit, config)["probe/knn_auroc"] < 0.75


def test_a_probed_run_has_bitwise_the_weights_of_one_that_is_not(corpus, tmp_path):
    probed, plain = (small_config(corpus, tmp_path / name, "jepa", *words) for name, words in (("a", PROBE), ("b", ())))
    assert train(probed, world=1) == train(plain, world=1)
    weights = [load_objective(Path(config.run.dir)).objective.state_dict() for config in (probed, plain)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])
    found = {r["step"]: r["probe/linear_auroc"] for r in read_metrics(tmp_path / "a") if "probe/linear_auroc" in r}
    assert list(found) == [1, 2, 4]
    assert all(0 <= value <= 1 for value in found.values())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["observe.probe.label=contrst"], "observe.probe.label=contrst: .* has no such column, did you mean 'contrast'"),
        (["observe.probe.label=contrast", "observe.probe.unit=dataset"], "hold too few units"),
        (["observe.probe.label=dataset"], "all 8 labelled volumes are of one class"),
    ],
)
def test_a_label_that_cannot_be_probed_is_said_before_training(corpus, words, said):
    config = load_config("mae", [f"data.corpus={corpus}", "run.dir=R", "data.size=[16,32,32]", *words])
    with pytest.raises(UserError, match=said):
        OnlineProbe(build_objective(config), Corpus.open(corpus, verify="size"), config, Environment(0, 1, 0, 1))
