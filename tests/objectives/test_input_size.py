"""A run may change its resolution: every objective takes volumes of another size than it was built for."""

import math

import pytest
import torch

from mri_fm.errors import UserError
from mri_fm.inputs import Inputs
from mri_fm.model_config import HeadConfig, ModelConfig
from mri_fm.models.positions import sincos_positions
from mri_fm.objectives import MAE, OBJECTIVES, MAESpectral, Objective

HEAD = HeadConfig(width=24, depth=1, heads=3)
SIZES = {"width": 24, "depth": 2, "heads": 3, "patch": [4, 4, 4], "predictor": HEAD, "decoder": HEAD}
BUILT, GIVEN = (8, 12, 12), (12, 8, 16)
SCHEDULE = {"spectral_weight": 0.5}


def build(name: str, size: tuple[int, int, int] = BUILT, position: str = "sincos", **options) -> Objective:
    return OBJECTIVES[name](OBJECTIVES[name].Config(**options), ModelConfig(**SIZES, position=position), size, seed=4)


def inputs(size: tuple[int, int, int] = GIVEN) -> Inputs:
    """Noise in a box, air around it."""
    foreground = torch.zeros(2, 1, *size, dtype=torch.bool)
    foreground[..., 4:8, 4:12] = True
    noise = torch.randn(2, 1, *size, generator=torch.Generator().manual_seed(2))
    return Inputs(torch.where(foreground, noise, -1.0), torch.tensor([5, 6]), 4, foreground)


def move_positions(objective: Objective, built: tuple[int, ...], given: tuple[int, ...]) -> None:
    """Give an objective that was built for `given` the positions that one built for `built` interpolates."""
    grids = [tuple(n // 4 for n in size) for size in (given, built)]
    for module in objective.modules():
        if hasattr(module, "table_ND"):
            module.table_ND = sincos_positions(module.width, *grids)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_another_size_is_what_an_objective_of_that_size_does_with_interpolated_positions(name):
    expected = build(name, GIVEN)
    move_positions(expected, BUILT, GIVEN)
    objective = build(name)
    for _ in range(2):  # the second time from the kept table
        loss, metrics = objective(inputs(), SCHEDULE)
        expected_loss, expected_metrics = expected(inputs(), SCHEDULE)
        assert loss.equal(expected_loss)
        assert all(metrics[key].equal(value) for key, value in expected_metrics.items())
    loss.backward()
    assert all(p.grad.isfinite().all() for p in objective.parameters() if p.grad is not None)
    assert not loss.equal(build(name, GIVEN)(inputs(), SCHEDULE)[0])


@pytest.mark.parametrize("name", OBJECTIVES)
def test_sizes_may_alternate(name):
    objective = build(name)
    first = objective(inputs(BUILT), SCHEDULE)[0]
    other = objective(inputs(GIVEN), SCHEDULE)[0]
    assert objective(inputs(BUILT), SCHEDULE)[0].equal(first)
    assert objective(inputs((4, 8, 12)), SCHEDULE)[0].isfinite()
    assert objective(inputs(GIVEN), SCHEDULE)[0].equal(other)


@pytest.mark.parametrize("mask", ["random", "tube", "multiblock"])
@pytest.mark.parametrize("budget", [1.0, 0.5])
@pytest.mark.parametrize("foreground", [True, False])
def test_masks_and_budgets_are_those_of_the_given_grid(mask, budget, foreground):
    options = {"mask": mask, "token_budget": budget, "foreground": foreground}
    given, built = (build("jepa", size, **options).mask(inputs()) for size in (BUILT, GIVEN))
    assert given.grid == built.grid == (3, 2, 4)
    assert given.visible_BV.equal(built.visible_BV)
    assert given.hidden_BM.equal(built.hidden_BM)
    assert given.visible_BV.shape[1] + given.hidden_BM.shape[1] == budget * 24


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("options", [{}, {"token_budget": 0.5, "shared_mask": False}])
def test_flops_follow_the_size(name, options):
    objective = build(name, **options)
    assert objective.flops_per_sample(GIVEN) == build(name, GIVEN, **options).flops_per_sample()
    assert objective.flops_per_sample(GIVEN) != objective.flops_per_sample() == objective.flops_per_sample(BUILT)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_rotary_positions_follow_the_size(name):
    loss, _ = build(name, position="rope")(inputs(), SCHEDULE)
    loss.backward()
    assert loss.isfinite()


@pytest.mark.parametrize("cls", [MAE, MAESpectral])
def test_the_mosaic_has_the_given_size(cls):
    x = inputs().x_BCZYX
    mosaic, hidden = build(cls.Config().name).reconstruct(inputs())
    assert mosaic.shape == hidden.shape == x.shape
    assert mosaic[~hidden].equal(x[~hidden])
    assert hidden.float().mean() == pytest.approx(18 / 24)


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize(
    ("size", "message"), [((8, 10, 12), r"does not divide .* multiples of model.patch"), ((4, 4, 4), "is a single patch")]
)
def test_a_size_that_cannot_be_trained_on_is_refused_when_it_is_planned(name, size, message):
    objective = build(name)
    objective.check_size(GIVEN)
    with pytest.raises(UserError, match=message):
        objective.check_size(size)


def test_a_size_without_a_frequency_in_the_band_is_refused_when_it_is_planned():
    objective = build("mae_spectral", cutoff=0.94, cutoff_high=0.96)
    with pytest.raises(UserError, match="no frequency of a volume"):
        objective.check_size((4, 4, 8))


def test_count_tokens_is_the_grid_of_a_size():
    assert build("mae").count_tokens(GIVEN) == (math.prod((3, 2, 4)), 6)
    assert build("mae").count_tokens() == (math.prod((2, 3, 3)), 4)
