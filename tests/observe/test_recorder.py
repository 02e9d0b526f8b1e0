import json
import queue
import time

import numpy as np
import pytest
import wandb

from mri_fm.config import load_config
from mri_fm.errors import ResumableError, UserError
from mri_fm.observe.events import EVENTS_FILE, read_events
from mri_fm.observe.recorder import METRICS_FILE, Recorder, Silence, read_metrics
from tests.distributed import free_port
from tests.observe.wandb_file import alerts, config, history, run_files, summary

TRUTH = np.random.default_rng(0).normal(size=(8, 12, 10)).astype(np.float32)
ARRAYS = {"truth": TRUTH, "mosaic": TRUTH, "hidden": TRUTH > 0}


def make_config(run_dir, mode: str, *words: str):
    return load_config("mae", ["data.corpus=C", f"run.dir={run_dir}", f"wandb.mode={mode}", *words])


def test_lines_are_flushed_at_once_and_the_last_line_of_a_step_counts(tmp_path):
    with Recorder(make_config(tmp_path, "disabled"), tmp_path) as recorder:
        recorder.write({"step": 1, "loss": 0.1 + 0.2, "grad_norm": None})
        assert json.loads((tmp_path / METRICS_FILE).read_text())["loss"] == 0.1 + 0.2
        recorder.write({"step": 2, "loss": 2.0})
    with Recorder(make_config(tmp_path, "disabled"), tmp_path) as recorder:
        recorder.write({"step": 2, "loss": 2.5})
    assert [(r["step"], r["loss"]) for r in read_metrics(tmp_path)] == [(1, 0.1 + 0.2), (2, 2.5)]
    assert not (tmp_path / "wandb").exists()


def test_a_line_cut_by_a_crash_is_left_out(tmp_path):
    (tmp_path / METRICS_FILE).write_text('{"step": 1, "loss": 1.0}\n{"step": 2, "lo')
    assert [r["step"] for r in read_metrics(tmp_path)] == [1]
    with Recorder(make_config(tmp_path, "disabled"), tmp_path) as recorder:
        recorder.write({"step": 2, "loss": 2.0})
    assert [r["loss"] for r in read_metrics(tmp_path)] == [1.0, 2.0]


def test_a_full_disk_ends_the_run_resumably(tmp_path, caplog):
    for name in (METRICS_FILE, EVENTS_FILE):
        (tmp_path / name).symlink_to("/dev/full")  # every write fails with ENOSPC
    with (
        pytest.raises(ResumableError, match=r"metrics\.jsonl cannot be written \(.*No space left"),
        Recorder(make_config(tmp_path, "disabled"), tmp_path) as recorder,
    ):
        recorder.write({"step": 1})
    assert "events.jsonl cannot be written" in caplog.text


def test_no_metrics_yet_is_an_error(tmp_path):
    with pytest.raises(UserError, match=METRICS_FILE):
        read_metrics(tmp_path)


def test_the_offline_wandb_run_holds_the_metrics_and_a_resume_continues_it(tmp_path):
    for step in (1, 2):
        with Recorder(make_config(tmp_path, "offline"), tmp_path, start=step - 1) as recorder:
            recorder.write({"step": step, "loss": float(step), "feature_std": 1.0 if step == 1 else 0.1})
            recorder.write({"step": step, "loss": float(step), "feature_std": 1e-3, "probe/knn_auroc": None})
            recorder.draw(step, ARRAYS)
        time.sleep(1.1)  # W&B names the folder of an offline run by the second
    files = run_files(tmp_path)
    assert len({file.stem for file in files}) == 1  # one run id
    assert [row["loss"] for file in files for row in history(file)] == [1.0, 2.0]
    assert config(files[0])["objective"]["name"] == "mae"
    assert config(files[0])["observe"]["alerts"]["collapse"] == 0.25
    last = summary(files[1])
    assert last["loss"] == 2.0
    assert last["pictures/reconstruction/caption"] == "step 2"
    assert (files[1].parent / "files" / last["pictures/reconstruction/path"]).read_bytes().startswith(b"\x89PNG")
    (sent,) = alerts(files[0])
    assert sent == ("collapse", "step 1: feature_std is 0.001, below 0.25 of its largest, 1")
    assert [(e["kind"], e["step"], e["text"][:22]) for e in read_events(tmp_path)] == [
        ("start", 0, "started"), ("alert", 1, "collapse: feature_std i"[:22]), ("end", 1, "ended"),
        ("start", 1, "resumed after step 1"), ("alert", 2, "collapse: feature_std i"[:22]), ("end", 2, "ended"),
    ]  # fmt: skip


def test_a_server_that_does_not_answer_costs_the_run_nothing(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    wandb.teardown()  # what it read of the environment before
    with Recorder(make_config(tmp_path, "online", "wandb.timeout_s=1"), tmp_path) as recorder:
        recorder.write({"step": 1, "loss": 1.0})
    wandb.teardown()
    assert "W&B does not answer" in caplog.text
    assert [record["loss"] for record in read_metrics(tmp_path)] == [1.0]
    assert [row["loss"] for file in run_files(tmp_path) for row in history(file)] == [1.0]


def test_faults_are_events(tmp_path):
    def train(recorder: Recorder) -> None:
        for step, skips in enumerate([0, 1, 1, 3], start=1):
            recorder.write({"step": step, "loss": 1.0, "skips": skips, "nonfinite_steps": 0})
        raise KeyError("bug")

    recorder = Recorder(make_config(tmp_path, "disabled"), tmp_path)
    with pytest.raises(KeyError), recorder:
        train(recorder)
    assert [(event["kind"], event["step"], event["text"]) for event in read_events(tmp_path)] == [
        ("start", 0, "started"),
        ("fault", 2, "1 samples skipped so far"),
        ("fault", 4, "3 samples skipped so far"),
        ("end", 4, "ended by KeyError: 'bug'"),
    ]


def test_silence_is_told_once(monkeypatch):
    monkeypatch.setattr("mri_fm.observe.recorder._LEAST_SILENCE_S", 0.05)
    heard: queue.Queue[float] = queue.Queue()
    silence = Silence(2.0, heard.put)
    silence.end()
    assert heard.get(timeout=300) >= 0.05
    silence.close()
    assert heard.empty()
    off = Silence(0.0, heard.put)
    off.end()
    time.sleep(0.1)
    assert heard.empty()
