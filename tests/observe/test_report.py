"""The page of runs that were recorded for it; drawn by a real browser where there is one."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from mri_fm.config import load_config, to_yaml
from mri_fm.errors import UserError
from mri_fm.observe.draw import PICTURE_DIR
from mri_fm.observe.recorder import Recorder
from mri_fm.observe.report import PICTURES, plan, read_runs, write_report
from tests.browser import dump_dom


def record_run(folder: Path, *words: str) -> Path:
    """A run that was resumed once, skipped a sample and collapsed."""
    folder.mkdir(parents=True)
    config = load_config("jepa", ["data.corpus=C", f"run.dir={folder}", "wandb.mode=disabled", *words])
    (folder / "config.yaml").write_text(to_yaml(config))
    for start in (0, 10):
        with Recorder(config, folder, start) as recorder:
            for step in range(start + 1, start + 11):
                line = {"step": step, "samples": 8 * step, "loss": 1.0 / step, "volumes_per_s": 50.0, "skips": int(step > 5)}
                if step % 5 == 0:
                    line |= {"feature_std": 1.0 if step < 20 else 0.01, "grad_norm/block_00": 1.0, "grad_norm/norm": 2.0}
                recorder.write(line)
    (folder / PICTURE_DIR).mkdir()
    for step in range(1, 30):
        Image.new("RGB", (4, 4)).save(folder / PICTURE_DIR / f"tokens-{step:08d}.png")
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    return [record_run(folder / "a<script>"), record_run(folder / "b", "optim.lr=0.5")]


@pytest.fixture(scope="module")
def page(runs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("page") / "report.html"
    write_report(read_runs(runs), out)
    return out


def data_of(page: Path) -> dict:
    return json.loads(re.search(r'id="data">(.*?)</script>', page.read_text(), re.DOTALL)[1])


def test_the_page_stands_alone(page):
    addresses = set(re.findall(r"https?://[^\s\"'<]+", page.read_text()))
    assert addresses <= {"http://www.w3.org/2000/svg"}  # a name, not an address
    assert not re.search(r"<(link|img|script)[^>]*(src|href)=\"(?!data:)", page.read_text())


def test_curves_events_and_pictures_are_those_of_the_runs(page):
    first, second = data_of(page)["runs"]
    assert (first["name"], second["name"]) == ("a<script>", "b")
    assert first["x"]["step"] == list(range(1, 21))
    assert first["series"]["loss"] == [float(f"{1 / step:.6g}") for step in range(1, 21)]
    assert first["series"]["feature_std"][3:6] == [None, 1.0, None]
    assert first["x"]["hours"] == sorted(first["x"]["hours"])
    kinds = [(event["kind"], event["step"]) for event in first["events"]]
    assert kinds == [("start", 0), ("fault", 6), ("end", 10), ("start", 10), ("fault", 11), ("alert", 20), ("end", 20)]
    assert page.read_text().count("data:image/png") == 2 * PICTURES


def test_panels_hold_the_curves_that_were_logged(page):
    sections = data_of(page)["sections"]
    assert [panel["title"] for panel in sections["health"]] == ["gradient norm by block"]
    assert sections["health"][0]["keys"] == ["grad_norm/block_00", "grad_norm/norm"]
    assert "probes" not in sections


def test_only_what_differs_in_the_configurations_is_shown(page):
    table = page.read_text().split("What differs")[1].split("</table>")[0]
    assert re.findall(r"<tr><td>([^<]+)</td>", table) == ["optim.lr"]


def test_a_browser_draws_every_curve_without_an_error(page, tmp_path):
    dom = dump_dom(page, tmp_path)
    assert "data-error" not in dom.split(">")[1]
    drawn = int(re.search(r'data-drawn="(\d+)"', dom)[1])
    sections = data_of(page)["sections"].values()
    assert drawn == 2 * sum(len(panel["keys"]) for panels in sections for panel in panels)
    assert "whole range" in dom


def test_the_plan_is_that_of_launch_plan(runs, tmp_path):
    pytest.importorskip("launch.plan")
    found = read_runs(runs[:1])
    planned = plan(found[0].config, "h100", 1, 2)
    assert planned.volumes_per_s == pytest.approx(8 / planned.step_s)
    write_report(found, tmp_path / "r.html", planned)
    panels = data_of(tmp_path / "r.html")["sections"]["throughput"]
    assert {panel["title"]: panel["plan"] for panel in panels} == {"volumes / s": planned.volumes_per_s}
    assert f"{50 / planned.volumes_per_s:.0%}" in (tmp_path / "r.html").read_text()
    with pytest.raises(UserError, match="--gpu abacus is not one of"):
        plan(found[0].config, "abacus", 1, 1)


def test_the_command_writes_beside_the_run_and_names_mistakes(runs, tmp_path):
    command = [sys.executable, "-m", "mri_fm.observe.report"]
    done = subprocess.run([*command, str(runs[1])], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(runs[1] / "report.html")
    bad = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, check=False)
    assert bad.returncode == 2
    assert bad.stderr.startswith(f"error: no {tmp_path}/metrics.jsonl")
