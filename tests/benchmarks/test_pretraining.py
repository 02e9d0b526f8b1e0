"""The benchmarks that pretrain: their arms, the rule of the sweep, their measures."""

import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pyarrow as pa
import pytest
import torch

from mri_fm.config import load_config
from mri_fm.evaluate.spec import label_task
from mri_fm.evaluate.task import resolve_task
from tests.corpora import resampled

ROOT = Path(__file__).parents[2]
GIVEN = ["run.dir=x", "data.corpus=y"]


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")


def resolve(run):
    return load_config(run.objective, [*GIVEN, f"seed={run.seed}", *run.words])


@pytest.mark.parametrize("objective", ["jepa_vcr", "mae", "mae_spectral"])
def test_arms_differ_in_what_they_are_named_after(objective):
    from convergence import arms_of

    arms = {arm: [resolve(run) for run in runs] for arm, runs in arms_of(objective, [0, 3]).items()}
    budgets = {"paper": 1.0, "default": 1.0, "60 %": 0.6, "45 %": 0.45}
    if objective != "jepa_vcr":
        budgets |= {"volume": 1.0, "volume, 60 %": 0.6, "volume, 45 %": 0.45}
    assert [config.seed for config in arms["45 %"]] == [0, 3]
    assert {arm: configs[0].objective.token_budget for arm, configs in arms.items()} == budgets
    of_volume = {"paper", "volume", "volume, 60 %", "volume, 45 %"} & set(arms)
    assert {arm for arm, configs in arms.items() if configs[0].data.statistics == "volume"} == of_volume
    if objective == "mae_spectral":
        assert {configs[0].objective.spectral_weight for configs in arms.values()} == {0.01}


def test_weight_0_is_mae_and_the_other_weights_reach_the_objective():
    from pretraining.runs import spectral_run
    from spectral_weight import WEIGHTS

    runs = [spectral_run(weight, 0) for weight in WEIGHTS]
    assert [run.objective for run in runs] == ["mae", *["mae_spectral"] * 4]
    assert [resolve(run).objective.spectral_weight for run in runs[1:]] == list(WEIGHTS[1:])
    assert len({run.name for run in runs}) == len(runs)


@pytest.mark.parametrize(
    ("error", "spectral", "chosen"),
    [
        ([1.0, 1.002, 1.0099, 1.02, 2.0], [1.0, 0.9, 0.8, 0.7, 0.6], 0.03),
        ([1.0, 1.002, 1.0099, 1.02, 2.0], [1.0, 0.9, 1.1, 0.7, 0.6], 0.01),
        ([1.0, 1.02, 1.02, 1.02, 2.0], [1.0, 0.9, 0.8, 0.7, 0.6], 0.01),
        ([1.0, 1.0, 1.0, 1.0, 0.9], [1.0, 0.9, 0.8, 0.7, 0.6], 1.0),
    ],
)
def test_the_largest_weight_that_costs_no_voxels_and_helps_the_spectrum_is_chosen(error, spectral, chosen):
    from pretraining.voxels import ABOVE_CUTOFF, log_magnitude
    from spectral_weight import WEIGHTS, choose

    rows = zip(WEIGHTS, error, spectral, strict=True)
    assert choose({w: {0: {"voxel_error": [e], log_magnitude(ABOVE_CUTOFF): [s]}} for w, e, s in rows}) == chosen


def test_weights_are_compared_under_the_same_seed():
    from spectral_weight import excess_by_seed

    measured = {0.0: {0: {"x": [1.0]}, 1: {"x": [2.0]}}, 0.1: {0: {"x": [1.1]}, 1: {"x": [2.4]}}, 1.0: {1: {"x": [3.0]}}}
    assert excess_by_seed(measured, 0.1, "x") == pytest.approx([0.1, 0.2])
    assert excess_by_seed(measured, 1.0, "x") == pytest.approx([0.5])


def test_bands_share_out_all_frequencies():
    from pretraining.voxels import BANDS, _inside

    inside = torch.stack([_inside((8, 6, 10), band) for band in BANDS])
    assert (inside.sum(dim=0) == 1).all()


def test_truth_explains_all_variance_and_the_mean_none():
    from pretraining.voxels import explained_variance

    truth = torch.randn(2, 1, 4, 6, 8, generator=torch.Generator().manual_seed(0))
    where = torch.zeros_like(truth, dtype=torch.bool)
    where[:, :, :, :3] = True
    mean = truth[:, :, :, :3].mean(dim=(1, 2, 3, 4), keepdim=True).expand_as(truth)
    assert explained_variance(truth, truth, where).tolist() == [1.0, 1.0]
    assert explained_variance(mean, truth, where).tolist() == pytest.approx([0.0, 0.0], abs=1e-6)


def test_differences_of_auroc_are_paired_over_people():
    from pretraining.probes import mean_auroc

    label_S = np.array([0, 1] * 10)
    columns = {"subject": [str(i) for i in range(20)], "x": label_S.tolist(), "contrast": ["T1"] * 20}
    task = resolve_task("x", label_task("x", "subject", 5, ()), pa.table(columns))
    good = (label_S + np.linspace(-0.9, 0.9, 20)).tolist()
    figures = mean_auroc(task, {"one": [good], "same": [good, good], "chance": [[0.5] * 20]})
    assert figures["one"][0] == figures["same"][0] > 0.7
    np.testing.assert_array_equal(figures["one"][1], figures["same"][1])
    assert figures["chance"][0] == 0.5


def test_people_are_counted_once_whatever_they_have_been_scanned_for():
    from pretraining.report import describe_people

    columns = {"subject": list("11234"), "sex": list("ffmmf"), "contrast": ["T1"] * 5}
    task = resolve_task("sex", label_task("sex", "subject", 2, ()), pa.table(columns))
    assert describe_people([task]).startswith("4 people (sex ")


@pytest.mark.parametrize("script", ["convergence", "spectral_weight"])
def test_without_scans_nothing_is_done_in_one_line(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [script])
    assert __import__(script).main() == 0
    assert capsys.readouterr().out.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize(("script", "words"), [("convergence", ["--objectives", "mae"]), ("spectral_weight", [])])
def test_a_tiny_benchmark_goes_through_and_reuses_what_is_finished(script, words, tmp_path):
    rows = ["participant_id\tgroup"]
    for number in range(12):
        file = tmp_path / "bids" / f"sub-{number:02d}" / "anat" / f"sub-{number:02d}_T1w.nii.gz"
        file.parent.mkdir(parents=True)
        nibabel.save(resampled((6, 6, 6), seed=number), file)
        rows.append(f"sub-{number:02d}\t{'ab'[number % 2]}")
    (tmp_path / "bids" / "participants.tsv").write_text("\n".join(rows) + "\n")
    sizes = "--steps 2 --checkpoints 1 --batch 2 --side 16 --seeds 0 --labels group".split()
    places = ["--bids", tmp_path / "bids", "--out", tmp_path / "out", "--figures", tmp_path]
    command = [sys.executable, ROOT / "benchmarks" / f"{script}.py", *places, *sizes, *words]
    first, again = (subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True, cwd=ROOT) for _ in "ab")
    tables = [[line for line in run.stdout.splitlines() if line.startswith("| ")] for run in (first, again)]
    assert tables[0] == tables[1]
    assert len(tables[0]) > 5
    assert (tmp_path / f"{script}.png").is_file()
