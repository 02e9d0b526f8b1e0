"""Masks as the objectives use them: every kind, several sets, foreground, and input that leaves little to hide."""

import pytest
import torch
from torch import Tensor

from mri_fm.config import load_config
from mri_fm.errors import UserError
from mri_fm.inputs import Inputs
from mri_fm.masking import KINDS
from mri_fm.model_config import HeadConfig, ModelConfig
from mri_fm.objectives import JEPA, JEPAVCR, OBJECTIVES, Objective
from mri_fm.objectives.hybrid import Hybrid

SIZE = (16, 16, 24)
HEAD = HeadConfig(width=24, depth=1, heads=3)
MODEL = ModelConfig(width=24, depth=1, heads=3, patch=[4, 4, 4], predictor=HEAD, decoder=HEAD)
POSITIONS = torch.tensor([7, 3, 12])
SCHEDULE = {"spectral_weight": 0.01}


def build(cls: type[Objective], **options) -> Objective:
    return cls(cls.Config(**options), MODEL, SIZE, seed=4)


def volumes(batch: int = 3) -> tuple[Tensor, Tensor]:
    """Volumes with a bright ball and which voxels belong to it."""
    z, y, x = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in SIZE), indexing="ij")
    foreground = ((z**2 + y**2 + x**2) < 0.5).expand(batch, 1, *SIZE)
    noise = torch.randn(batch, 1, *SIZE, generator=torch.Generator().manual_seed(2))
    return torch.where(foreground, 2 + noise, torch.tensor(-1.0)), foreground


def as_grid(index_BM: Tensor, objective: Objective) -> Tensor:
    hidden_BN = torch.zeros(len(index_BM), objective.student.num_tokens, dtype=torch.bool)
    return hidden_BN.scatter(1, index_BM, True).view(-1, *objective.student.grid)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("foreground", [True, False])
def test_every_objective_trains_under_every_mask(name, kind, foreground):
    options = {"shared_mask": False} if foreground else {}
    objective = build(OBJECTIVES[name], mask=kind, foreground=foreground, **options)
    x, inside = volumes()
    loss, metrics = objective(Inputs(x, POSITIONS, 0, inside), SCHEDULE)
    loss.backward()
    assert all(value.isfinite() for value in (loss, *metrics.values()))
    assert all(p.grad.isfinite().all() for p in objective.parameters() if p.grad is not None)


def test_kinds_have_their_shapes():
    columns = as_grid(build(JEPA, mask="tube").mask(Inputs(volumes()[0], POSITIONS, 0)).hidden_BM, build(JEPA)).sum(1)
    assert ((columns > 0) & (columns < 4)).flatten(1).sum(1).max() <= 1
    blocks = build(JEPA, mask="multiblock", mask_ratio=0.3).mask(Inputs(volumes()[0], POSITIONS, 0)).hidden_BM
    random = build(JEPA, mask_ratio=0.3).mask(Inputs(volumes()[0], POSITIONS, 0)).hidden_BM
    borders = [as_grid(index_BM, build(JEPA)).int().diff(dim=3).abs().sum() for index_BM in (blocks, random)]
    assert borders[0] < borders[1]


def test_blocks_follow_their_options():
    masks = [build(JEPA, mask="multiblock", **options).mask(Inputs(volumes()[0], POSITIONS, 0)).hidden_BM for options in (
        {}, {"mask_blocks": 3}, {"mask_scale": [0.4, 0.5]}, {"mask_aspect": [3.0, 4.0]}, {"mask_depth": [0.2, 0.3]}
    )]  # fmt: skip
    assert not any(masks[0].equal(other) for other in masks[1:])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("budget", [1.0, 0.6])
def test_foreground_is_hidden_first_down_to_its_visible_share(kind, budget):
    objective = build(JEPA, mask=kind, foreground=True, foreground_visible=0.25, token_budget=budget, mask_ratio=0.75)
    x, inside = volumes()
    mask = objective.mask(Inputs(x, POSITIONS, 0, inside))
    tissue = inside[0, 0].unfold(0, 4, 4).unfold(1, 4, 4).unfold(2, 4, 4).flatten(3).any(3).flatten()
    count = int(tissue.sum())
    assert count < budget * objective.student.num_tokens  # the budget keeps all of it
    for hidden_M in mask.hidden_BM:
        assert tissue[hidden_M].sum() == count - int(0.25 * count + 0.5)


@pytest.mark.parametrize("kind", KINDS)
def test_masks_lie_within_the_token_budget(kind):
    objective = build(JEPA, mask=kind, token_budget=0.6)
    x, inside = volumes()
    mask = objective.mask(Inputs(x, POSITIONS, 0, inside))
    both = torch.cat([mask.visible_BV, mask.hidden_BM], dim=1).sort(dim=1).values
    assert both.equal(mask.kept_BK)
    assert mask.kept_BK.gather(1, mask.hidden_in_kept_BM).equal(mask.hidden_BM)


@pytest.mark.parametrize("cls", [JEPA, Hybrid])
def test_several_sets_average_and_the_teacher_runs_once(cls):
    objective, x = build(cls, mask_sets=3).double(), volumes()[0].double()
    runs = {"teacher": 0, "student": 0}
    objective.teacher.register_forward_hook(lambda *_: runs.update(teacher=runs["teacher"] + 1))
    objective.student.register_forward_hook(lambda *_: runs.update(student=runs["student"] + 1))
    loss, _ = objective(Inputs(x, POSITIONS, 0), {})
    assert runs == {"teacher": 1, "student": 3}
    drawn = objective.masks(Inputs(x, POSITIONS, 0))
    singles = []
    for mask in drawn:
        objective.masks = lambda *_, mask=mask: [mask]
        singles.append(objective(Inputs(x, POSITIONS, 0), {})[0])
    torch.testing.assert_close(loss, torch.stack(singles).mean(), rtol=1e-12, atol=0)
    assert not singles[0].equal(singles[1])


def test_several_sets_are_slots_of_their_own_to_vcr():
    loss, metrics = build(JEPAVCR, mask_sets=2)(Inputs(volumes()[0], POSITIONS, 0), {})
    assert loss.isfinite()
    assert metrics["loss_variance"] > 0


def test_sets_cost_the_student_and_the_predictor_again_but_not_the_teacher():
    one, two, four = (build(JEPA, mask_sets=sets).flops_per_sample() for sets in (1, 2, 4))
    assert four - two == pytest.approx(2 * (two - one))
    assert two < 2 * one


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["objective.mask=blocks"], "objective.mask=blocks is not one of random, tube, multiblock"),
        (["objective.mask_ratio=0"], "between 0 and 1"),
        (["objective.mask_ratio=1"], "between 0 and 1"),
        (["objective.mask_blocks=0"], "at least 1 is needed; change one of objective"),
        (["objective.mask_scale=[0.5,0.1]"], "scale=.* is not a range"),
        (["objective.mask_depth=[0.5]"], "change one of objective"),
        (["objective.foreground_visible=2"], "foreground_visible=2.0 must lie in"),
        (["objective.mask_sets=0"], "mask_sets=0 must be at least 1"),
        (["objective.foreground=true", "objective.shared_mask=true"], "set objective.shared_mask=false"),
    ],
)
def test_mistakes_are_named_when_the_configuration_is_read(words, message):
    with pytest.raises(UserError, match=message):
        load_config("jepa", [*words, "data.corpus=C", "run.dir=R"])


def test_foreground_masks_without_a_foreground_are_refused():
    with pytest.raises(ValueError, match="need foreground_BCZYX"):
        build(JEPA, foreground=True).mask(Inputs(volumes()[0], POSITIONS, 0))
