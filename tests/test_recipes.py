"""The recipes, resolved: `paper` holds what arXiv 2606.13315 states, for each of its four objectives."""

import dataclasses

import pytest
from omegaconf import OmegaConf

from mri_fm.config import PRESETS, Config, load_config
from mri_fm.engine.schedules import optimizer_schedules
from mri_fm.errors import UserError
from mri_fm.objectives import OBJECTIVES, objective_class

GIVEN = ["run.dir=x", "data.corpus=y"]
PAPER = ("mae", "mae_spectral", "jepa", "jepa_vcr")
EPOCHS = {"mae": 700, "mae_spectral": 700, "jepa": 300, "jepa_vcr": 300}
STATED = {
    "data.statistics": "volume",
    "data.evaluation.plane": "shape",
    "data.augment.flip": 0.5,
    "data.augment.scale": 0.1,
    "data.augment.rotation": 10.0,
    "data.augment.gamma": 0.1,
    "objective.mask": "random",
    "objective.mask_ratio": 0.75,
    "objective.token_budget": 1.0,
    "optim.betas": [0.9, 0.975],
    "optim.weight_decay": 0.005,
    "optim.weight_decay_end": 0.0005,
    "optim.decay": "cosine",
    "optim.lr_start": 1e-4,
    "train.clip": 1.0,
    "model.position": "sincos",
}
MAE = {"optim.lr": 5e-4, "optim.lr_end": 5e-5, "objective.power": 2.0, "objective.patch_norm": False}
JEPA = {
    "optim.lr": 2e-4,
    "optim.lr_end": 1e-6,
    "objective.distance": "l1",
    "objective.mask_sets": 1,
    "objective.ema_start": 0.998,
    "objective.ema_end": 1.0,
}
SPECTRAL = {
    "objective.spectral_weight": 0.01,
    "objective.mode": "log_magnitude",
    "objective.cutoff": 0.3,
    "objective.units": "corner",
}
VCR = {
    "objective.vcr_weight": 0.25,
    "objective.variance_weight": 1.0,
    "objective.covariance_weight": 0.1,
    "objective.gamma": 1.0,
    "objective.shared_mask": True,
}
OF = {"mae": MAE, "mae_spectral": MAE | SPECTRAL, "jepa": JEPA, "jepa_vcr": JEPA | VCR}


def resolve(objective: str, *words: str) -> Config:
    return load_config(objective, [*GIVEN, *words])


@pytest.mark.parametrize("objective", PAPER)
def test_paper_states_the_papers_numbers(objective):
    tree = OmegaConf.structured(resolve(objective, "recipe=paper"))
    resolved = {key: OmegaConf.select(tree, key) for key in STATED | OF[objective]}
    assert resolved == STATED | OF[objective]


@pytest.mark.parametrize("objective", PAPER)
def test_paper_does_not_rest_on_defaults_that_may_move(objective):
    """Every number above is written in the recipe, but for the model's, whose preset is chosen beside it."""
    recipe = OmegaConf.load(PRESETS / "recipe" / "paper.yaml")
    written = OmegaConf.merge(recipe["all"], recipe[objective])
    expected = {key: value for key, value in (STATED | OF[objective]).items() if not key.startswith("model.")}
    assert {key: OmegaConf.select(written, key) for key in expected} == expected


# Of kinds of masks, weights and spectra that the paper does not use; and a guard that changes no equation.
ELSEWHERE = {"mask_blocks", "mask_scale", "mask_aspect", "mask_depth", "foreground_visible", "token_weight_floor", "shells"}
ELSEWHERE |= {"require_constant_batch"}


@pytest.mark.parametrize("objective", PAPER)
def test_paper_writes_down_every_option_of_its_objectives(objective):
    recipe = OmegaConf.load(PRESETS / "recipe" / "paper.yaml")
    written = set(OmegaConf.merge(recipe["all"], recipe[objective]).objective)
    options = {field.name for field in dataclasses.fields(objective_class(objective).Config)}
    assert options - written - ELSEWHERE == {"name"}


def test_paper_draws_every_published_kind_of_augmentation():
    augment = resolve("mae", "recipe=paper").data.augment
    assert min(augment.bias, augment.blur, augment.blur_probability, augment.noise, augment.rotation_probability) > 0


@pytest.mark.parametrize(("objective", "epochs"), [("mae", 5), ("mae_spectral", 5), ("jepa", 30), ("jepa_vcr", 30)])
def test_paper_warms_up_for_its_epochs(objective, epochs):
    rate = optimizer_schedules(resolve(objective, "recipe=paper").optim, EPOCHS[objective], 8)["lr"]
    assert rate[0] == pytest.approx(1e-4)
    assert int(rate.argmax()) == epochs


def test_paper_ramps_the_spectral_weight_from_epoch_5_to_25():
    config = resolve("mae_spectral", "recipe=paper", "data.size=[8,8,16]", "model.width=48")
    module = objective_class("mae_spectral")(config.objective, config.model, (8, 8, 16), 0)
    weight = module.schedules(700)["spectral_weight"]
    assert weight[4] == 0
    assert 0 < weight[5] < weight[23] < weight[24] == pytest.approx(0.01)


def test_paper_leaves_sizes_and_batch_to_the_user():
    config = resolve("mae", "recipe=paper", "model=vit_small", "train.global_batch=160", "data.size=[16,32,32]")
    assert (config.model.width, config.train.global_batch, config.data.size) == (384, 160, [16, 32, 32])
    assert resolve("mae", "recipe=paper").data.size == resolve("mae").data.size
    assert resolve("mae", "recipe=paper", "data=paper").data.size == [64, 160, 160]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_fast_asks_the_corpus_for_its_budget(objective):
    config = resolve(objective, "recipe=fast")
    assert config.data.statistics == ("volume" if objective.startswith("mae") else "foreground")
    assert config.objective.token_budget == 0.0
    assert not config.objective.shared_mask


def test_words_and_other_presets_win_over_a_recipe():
    config = resolve("jepa_vcr", "optim.lr=1e-3", "optim=cooldown", "recipe=paper")
    assert (config.optim.lr, config.optim.decay) == (1e-3, "constant")


def test_a_recipe_for_other_objectives_is_refused():
    with pytest.raises(UserError, match="recipe=paper says nothing about hybrid; it is for mae, mae_spectral, jepa, jepa_vcr"):
        resolve("hybrid", "recipe=paper")


def test_an_unknown_recipe_names_the_nearest():
    with pytest.raises(UserError, match="did you mean 'paper'"):
        resolve("mae", "recipe=papre")
