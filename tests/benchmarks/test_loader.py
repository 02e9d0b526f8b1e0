"""benchmarks/loader.py at a tiny size, and what makes its comparison fair."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from mri_fm.config import AugmentConfig
from mri_fm.data.params import draw_params
from mri_fm.data.twin import augment_volume
from mri_fm.errors import UserError
from tests.corpora import flipped, resampled

ROOT = Path(__file__).parents[2]
SIZE = (8, 16, 24)


@pytest.fixture(scope="module")
def bids(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two real scans in a BIDS tree, one of them stored as LAS."""
    root = tmp_path_factory.mktemp("bids")
    for subject, image in {"01": resampled((5, 6, 5)), "02": flipped(resampled((6, 5, 5), seed=1), "LAS")}.items():
        path = root / f"sub-{subject}" / "anat" / f"sub-{subject}_T1w.nii.gz"
        path.parent.mkdir(parents=True)
        nibabel.save(image, path)
    return root


@pytest.fixture(scope="module")
def folder(bids: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the benchmark keeps scans and corpus."""
    return tmp_path_factory.mktemp("bench")


@pytest.fixture
def settings(bids: Path, folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from loaders.scans import prepare
    from loaders.settings import Settings

    corpus, scans = prepare(folder, bids, 2)
    return Settings(corpus, tuple(scans), SIZE, batch=2, workers=1, device="cpu")


def test_the_box_holds_the_payload_in_whatever_order_the_file_has(settings) -> None:
    assert len(settings.scans) == 2
    for scan in settings.scans:
        image = nibabel.load(scan.raw).slicer[tuple(slice(*ends) for ends in scan.box_XYZ)]
        raw_ZYX = np.asarray(nibabel.as_closest_canonical(image).dataobj).T
        payload_ZYX = np.load(scan.array)
        inside = payload_ZYX > 0
        assert raw_ZYX.shape == payload_ZYX.shape
        assert np.corrcoef(raw_ZYX[inside], payload_ZYX[inside])[0, 1] > 0.999


def test_the_torch_peer_resamples_and_scales_as_ours_does(settings, monkeypatch: pytest.MonkeyPatch) -> None:
    from loaders import peers

    for name in ("FLIP", "LOG_GAMMA", "BIAS", "BLUR"):
        monkeypatch.setattr(peers, name, 0.0)
    scan = settings.scans[0]
    cube_ZYX = np.load(scan.array)[:24, :24, :24].copy()
    x_DHW = peers.augment_torch(torch.from_numpy(cube_ZYX), scan.window, replace(settings, noise=0.0, scale=0.0))[0]
    still = AugmentConfig(flip=0, scale=0, gamma=0, bias=0, blur=0, noise=0)
    drawn = [draw_params(cube_ZYX.shape, SIZE, still, seed=0, position=position) for position in range(20)]
    by_depth_axis = {params.depth_axis: params for params in drawn}
    twins_DHW = [augment_volume(cube_ZYX, params, scan.window, SIZE).x_DHW for params in by_depth_axis.values()]
    assert len(twins_DHW) == 3
    assert min((x_DHW - twin_DHW).abs().max() for twin_DHW in twins_DHW) < 1e-4


@pytest.mark.parametrize("factor", [0.9, 1.0, 1.1])
def test_the_torch_peer_scales_about_the_middle(settings, factor: float) -> None:
    from loaders.peers import resize, warp

    depth, height, width = torch.meshgrid(*[torch.linspace(-1, 1, 40)] * 3, indexing="ij")
    ball_DHW = ((depth**2 + height**2 + width**2) < 0.25).float()
    small, large = (20, 20, 20), (40, 40, 40)
    crop_DHW = ball_DHW[5:35, 5:35, 5:35]
    assert float(resize(crop_DHW, small, (factor,) * 3).mean() / crop_DHW.mean()) == pytest.approx(factor**3, rel=0.1)
    still_DHW = warp(ball_DHW, (0, 0, 40), large, factor, 0.0)
    assert (still_DHW - resize(ball_DHW, large, (factor,) * 3)).abs().mean() < 0.01
    moved_DHW = warp(ball_DHW, (10, 0, 40 - 10), (40, 30, 30), 1.0, 0.0)
    assert (moved_DHW - ball_DHW[:, 10:, :30]).abs().max() < 1e-4
    assert (warp(ball_DHW, (0, 0, 40), large, factor, 30.0) - still_DHW).abs().mean() < 0.02


@pytest.mark.parametrize(("name", "options"), [("monai", [True, False]), ("torchio", [True, False]), ("paper", [None])])
def test_other_libraries_give_finite_inputs(settings, name: str, options: list) -> None:
    pytest.importorskip({"paper": "torchio"}.get(name, name))
    from loaders import peers

    torch.manual_seed(0)
    for cached in options:
        arguments = {} if cached is None else {"cached": cached}
        x_BCDHW = next(getattr(peers, name)(settings, **arguments))
        assert x_BCDHW.shape == (2, 1, *SIZE)
        assert x_BCDHW.dtype == torch.float32
        assert x_BCDHW.isfinite().all()
        assert (x_BCDHW.std(dim=(2, 3, 4)) > 0.5).all()


def test_the_command_prints_its_table(bids: Path, folder: Path) -> None:
    small = ["--rounds", "1", "--batch", "2", "--workers", "1", "--volumes", "2", "--size", *map(str, SIZE)]
    rows = ["ours", "ours, 2 processes read", "webdataset + torch"]
    words = ["benchmarks/loader.py", "--bids", str(bids), "--folder", str(folder), *small, "--no-training", "--loaders", *rows]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines() if line.startswith("|")]
    assert [row[0] for row in cells if len(row) == 5][2:] == rows
    assert [row[0] for row in cells if len(row) == 4][2:] == rows
    assert float(cells[4][3]) > 0  # the ratio
    assert float(next(row for row in cells if len(row) == 4 and row[0] == rows[1])[3]) > 0  # shared memory


def test_a_loader_that_is_not_there_is_named(settings) -> None:
    import loader

    with pytest.raises(UserError, match="--loaders names ourz; there are: ours"):
        loader.chosen(loader.entries(settings), ["ourz"])


@pytest.mark.slow
def test_the_wait_of_real_steps_is_a_part_of_them(settings) -> None:
    from loaders.training import data_wait, volumes_per_second_needed

    wait = data_wait(settings.corpus, ["model=vit_tiny", "data.size=[16,16,16]", "train.global_batch=2"], 3)
    assert 0 < wait.wait < wait.step
    small, large = (volumes_per_second_needed("mae", [f"model={name}"]) for name in ("vit_tiny", "vit_small"))
    assert small > large > 0
