"""Run the real commands as a user does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from mri_fm.observe.recorder import METRICS_FILE

ROOT = Path(__file__).parents[2]
DEEPSPEED = str(Path(sys.executable).with_name("deepspeed"))
SMALL = """
model.width=48 model.depth=2 model.heads=3 data.size=[16,32,32] train.global_batch=4 log_every=1 seed=5
model.predictor.width=48 model.predictor.depth=1 model.decoder.width=48 model.decoder.depth=1
model.predictor.heads=3 model.decoder.heads=3 wandb.mode=disabled observe.every=0
""".split()


def start(command: Sequence[str | Path], log: Path, **environment: str) -> subprocess.Popen[bytes]:
    """Start a command in the repository root, in a process group of its own, its output in `log`."""
    with log.open("ab") as file:
        return subprocess.Popen(
            [str(word) for word in command],
            cwd=ROOT,
            env=os.environ | environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def finish(process: subprocess.Popen[bytes], log: Path, timeout: float = 900) -> tuple[int, str]:
    """Wait for the end; returns the exit code and all output. What is left over after the time-out is killed."""
    try:
        process.wait(timeout)
    finally:
        kill(process)
    return process.returncode, log.read_text(errors="replace")


def run(command: Sequence[str | Path], log: Path, **environment: str) -> tuple[int, str]:
    """Run to the end; returns the exit code and all output."""
    return finish(start(command, log, **environment), log)


def kill(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL the whole process group, as a power cut would."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def wait_for_step(process: subprocess.Popen[bytes], run_dir: Path, step: int, timeout: float = 600) -> None:
    """Return once the run has logged `step`."""
    deadline = time.monotonic() + timeout
    file = run_dir / METRICS_FILE
    while not (file.is_file() and f'"step": {step},' in file.read_text()):
        if process.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"the run ended or stood still before step {step}")
        time.sleep(0.05)
