"""What training logs is on a panel and what panels name is logged, by the keys of a real run in its offline W&B file."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import deepspeed  # noqa: F401  before the fork
import pytest
import torch

from mri_fm.observe.dashboard import workspace
from mri_fm.observe.draw import PICTURE_DIR
from mri_fm.observe.panels import LEFT_OUT, PICTURES, SECTIONS, panels
from tests.distributed import free_port
from tests.engine.test_training import small_config, train
from tests.objectives.variants import ALL, SCHEDULE, build, inputs
from tests.observe.wandb_file import config, history, run_files, summary

RUN = """
train.steps=2 wandb.mode=offline observe.every=2 observe.pictures=1 observe.probe.label=contrast observe.probe.unit=key
observe.probe.neighbours=2 val.every=2 profile.steps=1:2 checkpoint.every=9
""".split()
ONLY_ELSEWHERE = {"mfu"}  # of a GPU


@pytest.fixture(scope="module")
def run_dir(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    train(small_config(corpus, folder, "hybrid", *RUN, f"data.cache_dir={tmp_path_factory.mktemp('cache')}"), world=2)
    return folder


def of_objectives() -> Iterator[str]:
    """What the other objectives and mixtures of experts add."""
    for name, variant in ALL:
        if variant not in ("plain", "mixture"):
            continue
        objective = build(name, variant)
        yield from objective(inputs(), SCHEDULE)[1]
        yield from objective.after_step(torch.zeros(()))


@pytest.fixture(scope="module")
def logged(run_dir: Path) -> set[str]:
    rows = [row for file in run_files(run_dir) for row in history(file)]
    keys = {key for row in rows for key in row if not key.startswith("_")}
    pictures = {name for name in PICTURES if any(key.startswith(f"{name}/") for key in keys)}
    return {key for key in keys if not key.startswith(PICTURES)} | pictures | set(of_objectives())


def test_every_logged_key_is_on_a_panel_or_left_out_by_name(logged):
    homeless = {key for key in logged - LEFT_OUT - set(PICTURES) if not any(panel.shows(key) for panel in panels())}
    assert homeless == set()


def test_every_key_of_a_panel_is_logged(logged):
    for panel in panels():
        for key in panel.keys:
            found = [name for name in logged if (name.startswith(key) if key.endswith(("/", "_")) else name == key)]
            assert found or key in ONLY_ELSEWHERE, key
    assert set(PICTURES) <= logged
    assert logged >= LEFT_OUT - {"time"}


def test_the_offline_run_of_training_holds_pictures_config_and_summary(run_dir):
    (file,) = run_files(run_dir)
    assert config(file)["train"]["steps"] == 2
    last = summary(file)
    assert last["step"] == 2
    for key in PICTURES:
        assert (file.parent / "files" / last[f"{key}/path"]).is_file()
    names = {picture.name for picture in (run_dir / PICTURE_DIR).iterdir()}
    assert names == {f"{name}-{step:08d}.png" for name in ("reconstruction", "tokens") for step in (1, 2)}


def test_the_workspace_has_the_sections_and_their_panels():
    built = workspace("lab", "brains")
    assert [section.name for section in built.sections] == list(SECTIONS)
    for section, drawn in zip(SECTIONS.values(), built.sections, strict=True):
        if drawn.name != "pictures":
            assert [panel.title for panel in drawn.panels] == [panel.title for panel in section]
            for panel in drawn.panels:
                assert panel.y or panel.metric_regex
    (media,) = [section for section in built.sections if section.name == "pictures"]
    assert [panel.media_keys for panel in media.panels] == [[key] for key in PICTURES]


def test_a_server_that_cannot_be_reached_is_one_line():
    environment = os.environ | {
        "WANDB_BASE_URL": f"http://127.0.0.1:{free_port()}", "WANDB_API_KEY": "0" * 40, "WANDB_HTTP_TIMEOUT": "1",
    }  # fmt: skip
    command = [sys.executable, "-m", "mri_fm.observe.dashboard", "--entity", "lab", "--project", "brains"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("error: W&B did not take the workspace")
