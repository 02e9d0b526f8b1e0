"""What a training step waits for its samples, and how many volumes a GPU's step would take."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from mri_fm.config import load_config
from mri_fm.engine.setup import build_objective
from mri_fm.observe.recorder import read_metrics

ROOT = Path(__file__).parents[2]
ACHIEVED_FLOPS = 790e12  # bf16 on an H100 SXM, as large products reach it


@dataclass(frozen=True)
class Wait:
    """Means over the steps after the first, seconds."""

    step: float
    wait: float


def data_wait(corpus: Path, words: list[str], steps: int) -> Wait:
    """Run train.py for `steps` steps; its first one warms up and is not counted."""
    with tempfile.TemporaryDirectory() as folder:
        fixed = [
            f"data.corpus={corpus}",
            f"run.dir={folder}/run",
            f"train.steps={steps}",
            f"checkpoint.every={steps}",
            "log_every=1",
        ]
        command = [sys.executable, "train.py", "--objective", "mae", *fixed, "wandb.mode=disabled", *words]
        done = subprocess.run(
            command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])
        records = read_metrics(Path(folder) / "run")[1:]
    step, wait = (statistics.mean(float(record[name] or 0) for record in records) for name in ("step_time", "data_wait"))
    return Wait(step, wait)


def volumes_per_second_needed(objective: str, words: list[str]) -> float:
    """What one H100 would take at its achieved rate."""
    config = load_config(objective, ["data.corpus=unused", "run.dir=unused", *words])
    return ACHIEVED_FLOPS / build_objective(config).flops_per_sample()
