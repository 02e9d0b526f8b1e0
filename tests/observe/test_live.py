"""Runs that another process records, followed in a terminal and without one."""

import io
import json
import os
import pty
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from mri_fm.config import load_config, to_yaml
from mri_fm.errors import UserError
from mri_fm.observe.events import EVENTS_FILE, Events
from mri_fm.observe.follow import FollowedRun
from mri_fm.observe.lines import Tail
from mri_fm.observe.live import LEVELS, duration, follow, sparkline, view
from mri_fm.observe.recorder import METRICS_FILE, Recorder
from mri_fm.observe.report import main

STEPS = 12
FOLLOW = [sys.executable, "-m", "mri_fm.observe.report", "--live"]
# Records a run with the run's own code: it dies in the middle of line 8, and is resumed after step 6.
WRITER = """
import sys, time
from pathlib import Path
from mri_fm.config import config_from_yaml
from mri_fm.observe.recorder import METRICS_FILE, Recorder
run = Path(sys.argv[1])
config = config_from_yaml(run / "config.yaml")
killed = Recorder(config, run)
for step in range(1, 8):
    killed.write({"step": step, "loss": 1.0 / step, "volumes_per_s": 4.0, "feature_std": 1.0})
    time.sleep(0.1)
with open(run / METRICS_FILE, "a") as file:
    file.write('{"step": 8, "loss": 0.1')
time.sleep(1)
with Recorder(config, run, 6) as recorder:
    for step in range(7, 13):
        recorder.write({"step": step, "loss": 2.0 / step, "volumes_per_s": 8.0, "feature_std": 0.01 if step == 12 else 1.0})
        time.sleep(0.1)
"""


def make_run(folder: Path) -> Path:
    folder.mkdir()
    config = load_config("jepa", ["data.corpus=C", f"run.dir={folder}", f"train.steps={STEPS}", "wandb.mode=disabled"])
    (folder / "config.yaml").write_text(to_yaml(config))
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "a run")


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], str]:
    """What a pipe and a terminal are told of a run, from before its first line to its end."""
    run = make_run(tmp_path_factory.mktemp("followed") / "a run")
    Events(run).add("start", 0, "started")
    ours, theirs = pty.openpty()
    environment = os.environ | {"COLUMNS": "130", "LINES": "50", "TERM": "xterm"}
    on_terminal = subprocess.Popen([*FOLLOW, str(run)], stdout=theirs, env=environment)
    on_pipe = subprocess.Popen([*FOLLOW, str(run)], stdout=subprocess.PIPE, text=True)
    os.close(theirs)
    assert on_pipe.stdout is not None
    assert "started" in on_pipe.stdout.readline()
    assert os.read(ours, 65536)  # both have begun
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(run)])
    shown = read_all(ours)
    lines = on_pipe.communicate(timeout=600)[0].splitlines()
    assert [process.wait(timeout=600) for process in (writer, on_terminal, on_pipe)] == [0, 0, 0]
    return lines, shown


def test_without_a_terminal_each_step_and_event_is_a_line_and_the_last_step_ends_it(followed):
    lines, _ = followed
    texts = [line.split("  ", 1)[1] for line in lines if not line.startswith("step")]
    assert [text for text in texts if "resumed" in text or "alert" in text] == [
        "step 6  start: resumed after step 6",
        "step 12  alert: collapse: feature_std is 0.01, below 0.25 of its largest, 1",
    ]
    steps = [int(line.split()[1]) for line in lines if line.startswith("step")]
    assert steps[-6:] == list(range(7, 13))
    assert 8 not in steps[:-6]
    assert lines[-1].endswith("step 12  end: ended")
    assert f"step 7 of {STEPS}  loss 0.2857  volumes_per_s 8" in "\n".join(lines)


def test_a_terminal_shows_curves_alerts_and_the_end(followed):
    _, shown = followed
    last = shown[shown.rindex("a run") :]
    assert f"step {STEPS} of {STEPS}" in last
    assert "finished" in last
    assert "alert: collapse" in last
    assert set(LEVELS) & set(last)
    assert "0.1667" in last  # the loss of step 12


def read_all(terminal: int) -> str:
    """What is written to a terminal until nothing has it open any more."""
    found = b""
    with suppress(OSError):
        while chunk := os.read(terminal, 65536):
            found += chunk
    os.close(terminal)
    return found.decode()


def test_ctrl_c_ends_it_without_a_word(run):
    following = subprocess.Popen([*FOLLOW, str(run)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    events = Events(run)
    events.add("start", 0, "started")
    assert following.stdout is not None
    assert "started" in following.stdout.readline()
    following.send_signal(signal.SIGINT)
    out, error = following.communicate(timeout=600)
    assert (following.returncode, out, error) == (0, "", "")
    events.close()


def test_a_run_that_was_stopped_is_waited_for_and_then_left(run):
    with Recorder(FollowedRun(run).config, run) as recorder:
        recorder.write({"step": 3, "loss": 1.0})
    out = io.StringIO()
    follow(FollowedRun(run), Console(file=out), grace_s=0.0)
    assert [line.split("  ", 1)[1] for line in out.getvalue().splitlines()] == [
        "step 0  start: started",
        "loss 1",
        "step 3  end: ended",
    ]
    os.utime(run / METRICS_FILE, (1e9, 1e9))
    os.utime(run / EVENTS_FILE, (1e9, 1e9))
    followed = FollowedRun(run)
    follow(followed, Console(file=out))  # long ago: not waited for
    assert "stopped; the same command resumes" in shown(followed)
    assert not followed.finished


def test_a_run_that_died_without_a_word_is_said_to_be_silent(run):
    (run / METRICS_FILE).write_text(json.dumps({"step": 3, "loss": 1.0, "time": 1e9}) + "\n")
    os.utime(run / METRICS_FILE, (time.time() - 7200, time.time() - 7200))
    followed = FollowedRun(run)
    followed.look()
    assert "nothing written for 2 h 0 min" in shown(followed)


def shown(run: FollowedRun, width: int = 120) -> str:
    out = io.StringIO()
    Console(file=out, width=width).print(view(run, width))
    return out.getvalue()


@pytest.mark.parametrize("width", [60, 80, 200])
def test_a_view_fits_its_terminal_and_shows_every_single_metric_that_was_logged(run, width):
    line = {"step": 1, "loss": 1.0, "rankme": 3.0, "grad_norm/block_00": 7.0, "probe/knn_auroc": 0.75, "mfu": None, "time": 1.0}
    (run / METRICS_FILE).write_text(json.dumps(line) + "\n")
    followed = FollowedRun(run)
    followed.look()
    text = shown(followed, width)
    assert all(len(line) <= width for line in text.splitlines())
    assert [name for name in ("losses", "collapse", "health", "probes", "throughput") if name in text] == [
        "losses",
        "collapse",
        "probes",
    ]
    assert "0.75" in text


def test_time_left_is_that_of_the_steps_since_the_last_start(run):
    lines = [{"step": step, "loss": 1.0, "time": 1000.0 * step} for step in (1, 2)]
    lines += [{"step": step, "loss": 1.0, "time": 9000.0 + 10 * step} for step in (3, 5, 8)]
    (run / METRICS_FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run / EVENTS_FILE).write_text(json.dumps({"time": 9000.0, "step": 2, "kind": "start", "text": ""}) + "\n")
    followed = FollowedRun(run)
    assert followed.seconds_left() is None
    followed.look()
    assert followed.seconds_left() == (STEPS - 8) * 10.0


def test_a_tail_gives_each_whole_line_once(tmp_path):
    file = tmp_path / "lines"
    tail = Tail(file)
    assert tail.read() == []
    file.write_bytes(b'{"a": 1}\n{"a": ')
    assert tail.read() == [{"a": 1}]
    with file.open("ab") as stream:
        stream.write(b'2}\n{"a": "}\n[3]\n{"a": 4}\n{"a"')  # the third was cut, and its line ended by the next start
    assert tail.read() == [{"a": 2}, {"a": 4}]
    assert tail.read() == []
    file.write_bytes(b'{"a": 5}\n')  # shorter: written anew
    assert tail.read() == [{"a": 5}]
    (tmp_path / "other").write_bytes(b'{"a": 6}\n{"a": 7}\n')
    (tmp_path / "other").replace(file)
    assert tail.read() == [{"a": 6}, {"a": 7}]


@given(st.lists(st.floats(-1e9, 1e9), max_size=200), st.integers(1, 40), st.booleans())
def test_a_sparkline_reaches_from_the_least_to_the_largest_mean(values, width, log):
    line = sparkline(values, width, log=log)
    assert len(line) == min(width, len(values))
    assert set(line) <= set(LEVELS)
    assert not values or LEVELS[0] in line


def test_a_sparkline_of_few_values_has_one_level_each():
    assert sparkline([1.0, 2.0, 8.0], 9) == "▁▂█"
    assert sparkline([1.0, 2.0, 8.0], 9, log=True) == "▁▃█"
    assert sparkline([0.0, 0.0, 8.0, 8.0], 2) == "▁█"


def test_durations_read_as_people_say_them():
    seconds = (42, 300, 12000, 200000)
    assert [duration(value) for value in seconds] == ["42 s", "5 min", "3 h 20 min", "2 d 7 h"]


def test_mistakes_are_named(run, tmp_path, monkeypatch):
    several, empty = [str(run), str(run)], [str(tmp_path)]
    for words, message in ((several, "--live follows one run"), (empty, "no .*config.yaml: give the folder")):
        monkeypatch.setattr(sys, "argv", ["report", "--live", *words])
        with pytest.raises(UserError, match=message):
            main()
