"""The measures of the claims' training runs on constructed cases, and their design."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mri_fm.config import load_config
from mri_fm.inputs import Inputs
from mri_fm.model_config import HeadConfig, ModelConfig
from mri_fm.objectives.mae_spectral import MAESpectral

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_gradients_of_known_losses_have_their_known_angle_in_each_part():
    from claims.gradients import cosine_of, gradients_of

    parts = {"one": nn.Linear(2, 1, bias=False), "other": nn.Linear(3, 1)}
    parts["other"].bias.requires_grad_(False)
    w, v = parts["one"].weight[0], parts["other"].weight[0]
    losses = {"a": w[0] + 2 * v.sum(), "b": w[0] + w[1] - v.sum(), "c": v[0] + 0 * w.sum()}
    found = gradients_of(losses, parts)
    assert found["a"]["one"].tolist() == [1.0, 0.0]
    assert found["a"]["other"].tolist() == [2.0, 2.0, 2.0]
    assert cosine_of(found["a"]["one"], found["b"]["one"]) == pytest.approx(0.5**0.5)
    assert cosine_of(found["a"]["other"], found["b"]["other"]) == pytest.approx(-1.0)
    assert found["c"]["one"].norm() == 0


def test_pulls_are_those_of_the_losses_that_training_minimises():
    from claims.gradients import MODES, agreement, cosine, pulls, ratio

    model = ModelConfig(width=48, depth=1, heads=3, patch=[4, 4, 4], decoder=HeadConfig(width=48, depth=1, heads=3))
    batches = [Inputs(noise(2, 1, 16, 16, 16, seed=k), torch.arange(2) + 2 * k, 0) for k in (0, 1)]
    for mode in MODES:
        objective = MAESpectral(MAESpectral.Config(mode=mode), model, (16, 16, 16), seed=0)
        found = pulls(objective, batches)
        parameters = [p for p in objective.student.parameters() if p.requires_grad]
        of_weight = [torch.autograd.grad(objective(batches[0], {"spectral_weight": w})[0], parameters) for w in (0.0, 1.0)]
        plain, both = (torch.cat([g.flatten() for g in gradients]) for gradients in of_weight)
        spectral = both - plain
        assert found[ratio(mode, "encoder")][0] == pytest.approx(float(spectral.norm() / plain.norm()), rel=1e-3)
        expected = float(torch.nn.functional.cosine_similarity(spectral, plain, dim=0))
        assert found[cosine(mode, "encoder")][0] == pytest.approx(expected, abs=1e-3)
        assert len(found[agreement("decoder")]) == len(batches) - 1


def test_a_filter_shows_as_its_power_and_leaves_the_correlation():
    from claims.power import power_and_correlation

    truth, counted = noise(2, 1, 32, 32, 32), torch.ones(2, 64, dtype=torch.bool)
    power_BR, correlation_BR = power_and_correlation(truth / 2, truth, counted, (8, 8, 8))
    torch.testing.assert_close(power_BR, torch.full((2, 4), 0.25))
    torch.testing.assert_close(correlation_BR, torch.ones(2, 4))
    G = torch.fft.fftn(truth, dim=(2, 3, 4))
    radius = np.linalg.norm(np.stack(np.meshgrid(*[np.fft.fftfreq(32)] * 3, indexing="ij")), axis=0) / (0.75**0.5)
    smooth = torch.fft.ifftn(G * torch.from_numpy(radius < 0.3), dim=(2, 3, 4)).real
    power_BR, correlation_BR = power_and_correlation(smooth, truth, counted, (8, 8, 8))
    assert (power_BR[:, 0] > 0.5).all()
    assert (power_BR[:, 1] < 0.3).all()  # the taper leaks into the next band
    assert (power_BR[:, 2:] < 0.01).all()


def test_texture_in_the_wrong_place_has_the_power_and_not_the_correlation():
    from claims.power import power_and_correlation

    truth, other = noise(1, 1, 32, 32, 32), noise(1, 1, 32, 32, 32, seed=1)
    power_BR, correlation_BR = power_and_correlation(other, truth, torch.ones(1, 64, dtype=torch.bool), (8, 8, 8))
    assert (power_BR - 1).abs().max() < 0.1
    assert correlation_BR.abs().max() < 0.1


def test_only_hidden_patches_of_the_foreground_count():
    from claims.power import counted_patches, power_and_correlation

    truth = noise(1, 1, 8, 16, 16)
    hidden, foreground = torch.zeros_like(truth, dtype=torch.bool), torch.zeros_like(truth, dtype=torch.bool)
    hidden[:, :, :, 8:] = True
    foreground[..., :8] = True
    counted_BN = counted_patches(hidden, foreground, (8, 8, 8))
    assert counted_BN.tolist() == [[False, False, True, False]]
    mosaic = truth.clone()
    mosaic[..., 8:] = 0  # elsewhere nothing is seen
    mosaic[:, :, :, :8] = 0
    power_BR, _ = power_and_correlation(mosaic, truth, counted_BN, (8, 8, 8))
    torch.testing.assert_close(power_BR, torch.ones(1, 4))


def test_collapse_shows_in_the_rank_or_in_the_spread():
    from claims.spread import directions_for, spread_of

    healthy = noise(240, 32)
    line = noise(240, 1) @ noise(1, 32, seed=1) + 0.01 * healthy
    point = 3.0 + 1e-3 * healthy
    of_healthy, of_line, of_point = (spread_of(features) for features in (healthy, line, point))
    assert of_line["effective_rank"][0] < 5 < 25 < of_healthy["effective_rank"][0]
    assert of_point["effective_rank"][0] > 25  # a rank is scale-free
    assert of_point["std"][0] < 2e-3 < 0.9 < of_healthy["std"][0]
    assert of_point["rankme"][0] < 2  # not centred: the mean is the one direction
    assert sum(of_healthy["eigenvalues"]) == pytest.approx(float(healthy.var(dim=0).sum()), rel=1e-5)
    assert directions_for(of_line["eigenvalues"], 0.9) == 1
    assert directions_for([4.0, 3.0, 2.0, 1.0], 0.7) == 2


def test_arms_differ_in_what_they_are_named_after_and_share_their_seeds():
    from claims.design import EMA_START, FULL, RADIAL, VCR_WEIGHTS, WORDS, jepa_arms, mae_arms, published_momentum

    def resolve(run):
        return load_config(run.objective, ["run.dir=x", "data.corpus=y", f"seed={run.seed}", *WORDS, *run.words])

    mae = {arm: [resolve(run) for run in runs] for arm, runs in mae_arms(FULL).items()}
    assert mae["λ 0"][0].objective.name == "mae"
    assert [mae[f"λ {w:g}"][0].objective.spectral_weight for w in (0.01, 0.1, 1.0)] == [0.01, 0.1, 1.0]
    assert (mae[RADIAL][0].objective.mode, mae[RADIAL][0].objective.spectral_weight) == ("radial_log_power", 1e-4)
    jepa = {arm: [resolve(run) for run in runs] for arm, runs in jepa_arms(FULL).items()}
    assert [jepa[f"jepa_vcr {w:g}"][0].objective.vcr_weight for w in VCR_WEIGHTS] == list(VCR_WEIGHTS)
    assert {c.objective.shared_mask for configs in jepa.values() for c in configs} == {True}
    assert {c.objective.ema_start for configs in jepa.values() for c in configs} == {EMA_START}
    assert {tuple(c.seed for c in configs) for configs in (mae | jepa).values()} == {FULL.seeds}
    assert [resolve(runs[0]).objective.ema_start for runs in published_momentum(FULL).values()] == [0.998, 0.998]


def test_the_same_people_are_always_held_out():
    from claims.corpus import HELD_OUT, choose_held_out

    with HELD_OUT.open() as file:
        fixed = [(row["subject_id"], row["scan_uid"]) for row in csv.DictReader(file)]
    assert len(set(fixed)) == len(fixed) == 20
    others = [(f"p{k}", f"p{k}_T1w") for k in range(7)]
    assert choose_held_out([*others, *fixed[:3]], fixed) == fixed[:3]
    assert choose_held_out(others, fixed) == others[::3]


def measures(**values: float) -> dict[str, list[float]]:
    return {name.replace("_views_", " views "): [value] for name, value in values.items()}


@pytest.mark.parametrize(
    ("cosines", "said"),
    [([-0.3, -0.2], "interferes"), ([-0.3, 0.05], "orthogonal"), ([0.2, 0.3], "helps"), ([-0.01, -0.02], "orthogonal")],
)
def test_a_direction_must_be_clear_and_the_same_in_every_seed(cosines, said):
    from claims.verdicts import direction

    assert direction(np.array(cosines)) == said


def reconstruction(error: float, level: float) -> list[dict[str, list[float]]]:
    """Two seeds with an error and a power ratio of all bands."""
    from claims.measures import correlation, power
    from claims.power import BANDS

    bands = {name(band): [level] for band in range(len(BANDS)) for name in (power, correlation)}
    return [{"voxel_error": [error]} | bands for _ in "ab"]


@pytest.mark.parametrize(
    ("error", "level", "weight"),
    [
        ((1.0, 1.005, 1.009, 2.0), (0.2, 0.3, 0.4, 1.0), 0.1),
        ((1.0, 1.005, 1.02, 2.0), (0.2, 0.3, 0.4, 1.0), 0.01),
        ((1.0, 1.005, 1.005, 1.0), (0.2, 0.3, 6.0, 0.1), 0.01),  # six times too much is further off than a fifth
        ((1.0, 1.02, 1.02, 2.0), (0.2, 0.3, 0.4, 1.0), 0.01),  # none: the published one
    ],
)
def test_the_largest_weight_that_costs_no_voxels_and_restores_power_is_recommended(error, level, weight):
    from claims.design import WEIGHTS
    from claims.verdicts import recommended_weight

    last = {w: reconstruction(e, power) for w, e, power in zip(WEIGHTS, error, level, strict=True)}
    assert recommended_weight(last) == weight


def test_collapse_and_the_pilots_finding_are_asked_of_every_seed():
    from claims.verdicts import collapsed, pilot_holds

    def features(rank: float, std: float) -> dict[str, list[float]]:
        return measures(teacher_views_effective_rank=rank, teacher_views_std=std)

    random = [features(10, 1), features(10, 1)]
    low, narrow, good = ([features(*values)] * 2 for values in ((4, 1), (10, 0.4), (12, 2)))
    assert collapsed(low, random)
    assert collapsed(narrow, random)
    assert not collapsed([low[0], good[0]], random)
    assert pilot_holds(low, good, random, "effective_rank")
    assert not pilot_holds([low[0], good[0]], good, random, "effective_rank")
    assert not pilot_holds(low, narrow, random, "effective_rank")


@pytest.mark.slow
def test_the_short_form_goes_through_and_does_nothing_twice(tmp_path):
    words = ["--short", "--out", str(tmp_path / "out"), "--figures", str(tmp_path)]
    command = [sys.executable, "-m", "benchmarks.claims.training", *words]
    first, again = (subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT) for _ in "ab")
    tables = [[line for line in run.stdout.splitlines() if line.startswith("| ")] for run in (first, again)]
    assert tables[0] == tables[1]
    assert len(tables[0]) > 8
    assert (tmp_path / "claims-training.png").is_file()
