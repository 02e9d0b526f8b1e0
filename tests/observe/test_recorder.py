import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from wandb.proto import wandb_internal_pb2

from mri_fm.config import load_config
from mri_fm.errors import ResumableError, UserError
from mri_fm.observe.recorder import METRICS_FILE, Recorder, read_metrics


def make_config(run_dir, mode: str):
    return load_config("mae", ["data.corpus=C", f"run.dir={run_dir}", f"wandb.mode={mode}"])


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


def test_a_full_disk_ends_the_run_resumably(tmp_path):
    (tmp_path / METRICS_FILE).symlink_to("/dev/full")  # every write fails with ENOSPC
    with (
        pytest.raises(ResumableError, match=r"metrics\.jsonl cannot be written \(.*No space left"),
        Recorder(make_config(tmp_path, "disabled"), tmp_path) as recorder,
    ):
        recorder.write({"step": 1})


def test_no_metrics_yet_is_an_error(tmp_path):
    with pytest.raises(UserError, match=METRICS_FILE):
        read_metrics(tmp_path)


def records(run_file: Path) -> Iterator[bytes]:
    """The records of a .wandb file: after 7 bytes of header a LevelDB log, 32 KiB blocks of (crc, length, kind, data)."""
    content, at, parts = run_file.read_bytes(), 7, []
    while at + 7 <= len(content):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, at)
        parts.append(content[at + 7 : at + 7 + length])
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            yield b"".join(parts)
            parts = []


def history(run_file: Path) -> list[dict[str, float]]:
    """The logged rows of an offline run."""
    rows = []
    for data in records(run_file):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.HasField("history"):
            rows.append({(i.key or "/".join(i.nested_key)): json.loads(i.value_json) for i in record.history.item})
    return rows


def test_the_offline_wandb_run_holds_the_metrics_and_a_resume_continues_it(tmp_path):
    for step in (1, 2):
        with Recorder(make_config(tmp_path, "offline"), tmp_path) as recorder:
            recorder.write({"step": step, "loss": float(step)})
        time.sleep(1.1)  # W&B names the folder of an offline run by the second
    files = sorted((tmp_path / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len({file.stem for file in files}) == 1  # one run id
    rows = [row for file in files for row in history(file)]
    assert [row["loss"] for row in rows] == [1.0, 2.0]
