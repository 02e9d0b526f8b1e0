"""How long training waits for a checkpoint, beside its own step and beside a checkpoint that it waits for to the end.

    python benchmarks/checkpoint.py                                          # ViT-S at 32×64×64, one volume a step
    python benchmarks/checkpoint.py --model vit_base --size 64 160 160 --stage 3 --out /mnt/shared

One rank with DeepSpeed's engine, random volumes, real writer processes and files. In each turn: some steps, `save`, the step
beside the writing, and the wait until it is published. Medians over the turns; wall time, since waiting is what is asked about,
and CPU time for a busy machine; the first turn, which also takes the host memory, stands by itself.

Prints Markdown for `benchmarks/results/checkpoint.md`.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from mri_fm.config import load_config
from mri_fm.engine.checkpoint import Checkpointer
from mri_fm.engine.ema import EMA
from mri_fm.engine.environment import read_environment, start_process_group
from mri_fm.engine.setup import build_engine
from mri_fm.errors import run_main
from mri_fm.inputs import Inputs
from mri_fm.run_config import CheckpointConfig

STEPS = 3  # before each save


@dataclass(frozen=True)
class Turn:
    """Seconds of one checkpoint."""

    step: float  # without a checkpoint
    blocked: float  # `save`
    step_beside: float  # while it is written
    written: float  # from the call of `save` to the checkpoint's publication
    blocked_cpu: float  # CPU time of this process in `save`, of its CPU time in a step


class Run:
    """An engine that trains on one random volume, and its checkpoints."""

    def __init__(self, options: argparse.Namespace, out: Path) -> None:
        """Build everything; nothing is measured yet."""
        size = list(options.size)
        words = [f"model={options.model}", f"data.size={size}", "data.corpus=none", f"run.dir={out}", "train.global_batch=1"]
        config, environment = load_config("jepa_vcr", words), read_environment()
        start_process_group(environment)
        self.engine = build_engine(config, {"zero_optimization": {"stage": options.stage}}, environment)
        self.ema = EMA(self.engine.module.ema_pairs())
        identity: dict[str, Any] = {"values": {}, "at_default": []}
        self.checkpointer = Checkpointer(out, CheckpointConfig(keep_last=1), environment, identity)
        device = environment.device
        self.inputs = Inputs(torch.randn(1, 1, *size, device=device), torch.zeros(1, dtype=torch.int64, device=device), 0)
        self.now = {name: float(values[0]) for name, values in self.engine.module.schedules(1).items()}

    def step(self) -> None:
        """One optimizer step, to its end on the device."""
        loss, _ = self.engine(self.inputs, self.now)
        self.engine.backward(loss)
        self.engine.step()
        self.ema.update(0.99)
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    def turn(self, number: int) -> Turn:
        """Train, save, train on, wait."""
        steps = [seconds(self.step) for _ in range(STEPS)]
        step, step_cpu = (statistics.median(times) for times in zip(*steps, strict=True))
        begun = time.perf_counter()
        blocked, blocked_cpu = seconds(lambda: self.checkpointer.save(self.engine, self.ema, number, position=number))
        beside, _ = seconds(self.step)
        self.checkpointer.finish()
        return Turn(step, blocked, beside, time.perf_counter() - begun, blocked_cpu / step_cpu)


def seconds(work: Callable[[], None]) -> tuple[float, float]:
    """Wall and CPU time of a call."""
    start, start_cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - start, time.process_time() - start_cpu


def row(name: str, turns: list[Turn]) -> str:
    """A row of the table: medians of the turns."""
    step, blocked, beside, written, cpu = (statistics.median(getattr(t, f.name) for t in turns) for f in fields(Turn))
    numbers = (step, blocked, blocked / step, cpu, blocked / written, beside, written)
    return f"| {name} | " + " | ".join(f"{number:.2f}" for number in numbers) + " |"


def heading(options: argparse.Namespace, size: int) -> str:
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()} CPU"
    load = os.getloadavg()[0]
    return (
        f"## {datetime.date.today()}, {where}, {torch.get_num_threads()} of {os.cpu_count()} threads, load {load:.0f}\n\n"
        f"{options.model}, jepa_vcr, {' × '.join(map(str, options.size))} voxels, batch 1, ZeRO stage {options.stage}, "
        f"{size / 1e6:.0f} MB, median of {options.turns}.\n\n"
        "| checkpoint | step, s | blocked, s | of a step | of a step, CPU time | of the whole time | step beside it, s "
        "| published after, s |\n"
        "|---|---|---|---|---|---|---|---|"
    )


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_small")
    parser.add_argument("--size", type=int, nargs=3, default=[32, 64, 64], help="depth, height, width")
    parser.add_argument("--stage", type=int, default=2, help="of ZeRO")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--out", type=Path, help="where checkpoints are written (default: the system's temporary folder)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.out) as folder:
        run = Run(options, Path(folder))
        run.step()
        first, *later = [run.turn(number) for number in range(1, options.turns + 2)]
        size = sum(file.stat().st_size for file in Path(folder).glob("checkpoints/step-*/*"))
    print("\n".join([heading(options, size), row("first", [first]), row("later", later)]), flush=True)
    return 0


if __name__ == "__main__":
    run_main(main)
