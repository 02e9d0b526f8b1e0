import json
import socket
import subprocess

import pytest

from launch import demo
from launch.demo_report import collapse_warnings


def records(losses, **more):
    return [{"step": n + 1, "loss": loss, "volumes_per_s": 2.0, **more} for n, loss in enumerate(losses)]


def test_first_and_last_loss_are_means_over_a_fifth():
    figures = demo.run_figures(records([10, 8, 5, 5, 5, 5, 5, 5, 2, 4]))
    assert figures == {"steps": 10, "first_loss": 9.0, "last_loss": 3.0, "volumes_per_s": 2.0}


def test_a_jepa_run_adds_its_collapse_metrics_at_both_ends():
    lines = records([3, 2, 1], loss_prediction=1.0)
    lines[0] |= {"feature_std": 0.5, "rankme": 4.0}
    lines[2] |= {"feature_std": 0.4, "rankme": 3.0}
    figures = demo.run_figures(lines)
    assert (figures["feature_std"], figures["rankme"]) == ([0.5, 0.4], [4.0, 3.0])


def test_runs_are_the_same_only_bitwise_and_step_by_step(tmp_path):
    for name, losses in {"a": [0.1, 0.2], "b": [0.1, 0.2], "c": [0.1, 0.2 + 1e-16], "d": [0.1]}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records(losses)))
    same = [demo.same_losses(tmp_path / "a", tmp_path / name) for name in "bcd"]
    assert same == [True, 0.2 == 0.2 + 1e-16, False]


def test_last_step_ignores_a_line_that_is_still_being_written(tmp_path):
    assert demo.last_step(tmp_path) == 0
    (tmp_path / "metrics.jsonl").write_text('{"step": 3}\n{"step": 4, "lo')
    assert demo.last_step(tmp_path) == 3


def test_a_free_port_is_free():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", demo.free_port()))


def test_a_finished_demo_shows_its_table_at_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "OUT", tmp_path)
    run = {"steps": 5, "first_loss": 2.0, "last_loss": 1.0, "volumes_per_s": 3.0}
    summary = {
        "corpus": dict.fromkeys(("accepted", "duplicate", "refused", "distinct_brains", "templates", "variants"), 7),
        "runs": {"mae": run, "jepa": run | {"feature_std": [0.5, 0.4], "rankme": [3.0, 2.0]}},
        "resume": {"objective": "jepa_vcr", "bitwise": True},
        "probe": {"label": "atrophy", "auroc": 0.7, "interval": [0.6, 0.8], "random_init_auroc": 0.5, "raw_voxel_auroc": 0.6,
                  "caption": "rendered"},
        "wall_s": 1.0,
        "versions": {},
    }  # fmt: skip
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    assert demo.main() == 0
    shown = capsys.readouterr().out
    assert "0.5 → 0.4" in shown
    assert "0.700 [0.600, 0.800]" in shown
    assert str(tmp_path / "report.html") in shown


def test_a_halved_feature_std_is_called_collapse():
    runs = {"mae": {}, "jepa": {"feature_std": [1.0, 0.5]}, "jepa_vcr": {"feature_std": [1.0, 0.51]}}
    (warning,) = collapse_warnings(runs)
    assert warning.startswith("jepa:")


@pytest.mark.end_to_end
def test_make_names_a_missing_prerequisite_in_one_line(tmp_path):
    """A python that is too old stands in the place of the real one."""
    old = tmp_path / "python-old"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    for python, said in ((str(old), "Python 3.11"), ("no-such-python", "no-such-python")):
        command = ["make", "setup", f"PYTHON={python}", f"VENV={tmp_path / 'venv'}"]
        done = subprocess.run(command, cwd=demo.ROOT, capture_output=True, text=True, check=False)
        (line,) = [line for line in done.stdout.splitlines() if "missing" in line]
        assert said in line
        assert done.returncode != 0
