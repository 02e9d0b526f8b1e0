"""A W&B server that answers at the start and is gone in the middle of the run."""

import json
import logging
import multiprocessing
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import pytest
import wandb

from mri_fm.config import load_config
from mri_fm.observe.events import read_events
from mri_fm.observe.lines import read_lines
from mri_fm.observe.recorder import METRICS_FILE, Recorder, read_metrics
from tests.distributed import run_ranks
from tests.observe.wandb_file import history, run_files

PROJECT = {"id": "p", "name": "mri-fm", "entity": {"id": "e", "name": "lab"}}


class Handler(BaseHTTPRequestHandler):
    """As much of W&B's interface as starting a run takes."""

    def do_POST(self) -> None:
        query = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode(errors="replace")
        data: dict[str, object] = {}
        if "upsertBucket" in query:
            bucket = {"id": "b", "name": "r", "displayName": "r", "description": "", "config": "{}", "sweepName": None,
                      "historyLineCount": 0, "project": PROJECT}  # fmt: skip
            data = {"upsertBucket": {"bucket": bucket, "inserted": True}}
        elif "RunResumeStatus" in query:
            data = {"model": {**PROJECT, "bucket": None}}
        elif "createRunFiles" in query and self.server.complete:  # type: ignore[attr-defined]
            data = {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": []}}
        content = json.dumps({"data": data}).encode()
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_PUT = do_POST

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    found = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.asked, found.complete = [], True  # type: ignore[attr-defined]
    threading.Thread(target=found.serve_forever, daemon=True).start()
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{found.server_address[1]}")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    wandb.teardown()  # what it has read of the environment before
    yield found
    wandb.teardown()


def write_until_lost(rank: int, run_dir: Path, server_gone: Event | None) -> list[str]:
    """Record a run; returns what was warned of. In a process of its own, since W&B's part of this one may break."""
    warned: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: warned.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("mri_fm").addHandler(handler)
    words = ["data.corpus=C", f"run.dir={run_dir}", "wandb.mode=online", "wandb.timeout_s=15"]
    with Recorder(load_config("mae", words), run_dir) as recorder:
        recorder.write({"step": 1, "loss": 1.0})
        for step in range(2, 100):
            if warned or (server_gone is not None and server_gone.wait()):
                break
            recorder.write({"step": step, "loss": 1.0})
            time.sleep(0.2)
        for last in (100, 101):
            recorder.write({"step": last, "loss": 1.0})
    return warned


@pytest.mark.slow
def test_training_goes_on_and_all_files_stay(server, tmp_path):
    gone = multiprocessing.get_context("fork").Event()

    def leave() -> None:
        while not read_lines_of(tmp_path):
            time.sleep(0.1)
        server.shutdown()
        server.server_close()
        gone.set()

    threading.Thread(target=leave, daemon=True).start()
    assert run_ranks(write_until_lost, 1, tmp_path, gone) == [[]]
    assert "/graphql" in server.asked
    assert [record["step"] for record in read_metrics(tmp_path)] == [1, 100, 101]
    assert read_events(tmp_path)[-1]["text"] == "ended"
    (file,) = run_files(tmp_path)
    assert [row["step"] for row in history(file)] == [1, 100, 101]


def read_lines_of(run_dir: Path) -> list[dict[str, Any]]:
    return list(read_lines(run_dir / METRICS_FILE))


@pytest.mark.slow
def test_a_process_of_wandb_that_dies_ends_the_mirror_alone(server, tmp_path):
    """It panics at an answer that lacks what it asked for."""
    server.complete = False
    ((warning,),) = run_ranks(write_until_lost, 1, tmp_path, None)
    assert warning.startswith("W&B has failed")
    assert [record["step"] for record in read_metrics(tmp_path)][-2:] == [100, 101]
    assert read_events(tmp_path)[-1]["text"] == "ended"
