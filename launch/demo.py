"""`make demo`: the main job end to end on real MRI, through the same commands a user types.

raw scans → corpus → four objectives under `deepspeed` → one of them killed and resumed → probe → report. Everything is left
under runs/demo/. Interrupted, it goes on where it was; finished, it shows what it measured until `make clean`.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tqdm import tqdm

from launch.demo_report import write_demo_report
from mri_fm.errors import UserError, run_main
from mri_fm.observe.recorder import METRICS_FILE, read_metrics

ROOT = Path(__file__).parents[1]
OUT = Path("runs/demo")
OBJECTIVES = ("mae", "mae_spectral", "jepa", "jepa_vcr")
STEPS = 50
CHECKPOINT_EVERY = 15
RESUMED = "jepa_vcr"  # this run is killed on its way, and compared with one that was not
PROBED = "mae_spectral"  # chosen before looking: the paper's best objective
LABEL = "contrast"
PACKAGES = ("torch", "deepspeed", "nvidia-dali-cuda130", "nvidia-dali-cuda120", "webdataset", "nibabel", "zarr", "numpy")


def main() -> int:
    """Run what is missing, then print the table and where the report lies."""
    os.chdir(ROOT)
    if not (OUT / "summary.json").is_file():
        run_all()
    summary = json.loads((OUT / "summary.json").read_text())
    print(table(summary))
    print(f"report   {OUT / 'report.html'}\nsummary  {OUT / 'summary.json'}\n`make clean` removes both")
    return 0


def run_all() -> None:
    """All stages in order; each does nothing where its result is already there."""
    start = time.monotonic()
    (OUT / "logs").mkdir(parents=True, exist_ok=True)
    stage("raw scans from installed packages", lambda: python("preprocessing.sample_data", "--out", OUT / "raw"))
    build = ("--raw", OUT / "raw", "--out", OUT / "corpus", "--max-spacing", "7.5", "--val-fraction", "0")
    stage("corpus: Zarr archive and tar shards", lambda: python("preprocessing.build_shards", *build))
    for objective in OBJECTIVES:
        if objective == RESUMED:
            stage(f"pretrain {objective}, killed half-way", lambda: train_and_kill(RESUMED, OUT / RESUMED))
        stage(f"pretrain {objective}", lambda name=objective: train(name, OUT / name))  # type: ignore[misc]
    stage(f"pretrain {RESUMED} again, undisturbed", lambda: train(RESUMED, OUT / "undisturbed"))
    probe = ("--run", OUT / PROBED, "--corpus", OUT / "corpus", "--label", LABEL, "--unit", "rendering", "--out", OUT / "probe")
    short = ("--refits", "1", "--permutations", "20")
    stage(f"probe {PROBED} for {LABEL}", lambda: python("mri_fm.evaluate", *probe, *short))
    summary = summarise(time.monotonic() - start)
    stage("report", lambda: write_demo_report(OUT, summary, PROBED))
    (OUT / "summary.json").write_text(json.dumps(summary, indent=1))


def stage(title: str, work: Callable[[], None]) -> None:
    """Run one stage between two lines that say what and how long."""
    print(f"── {title}", flush=True)
    start = time.monotonic()
    work()
    print(f"   {time.monotonic() - start:.0f} s", flush=True)


def python(module: str, *arguments: str | Path) -> None:
    """Run a module as the user would, its progress bar on this terminal."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    if subprocess.run(command, check=False).returncode:
        raise UserError(f"`{' '.join(['python', *command[1:]])}` failed; its message stands above")


def train_command(objective: str, run_dir: Path) -> list[str]:
    """The training command of the README at the demo's size."""
    launcher = [str(Path(sys.executable).with_name("deepspeed")), "--num_gpus", "2", "--master_port", str(free_port())]
    words = {
        "data.corpus": OUT / "corpus",
        "run.dir": run_dir,
        "train.steps": STEPS,
        "checkpoint.every": CHECKPOINT_EVERY,
        "observe.every": STEPS // 2,
        "log_every": 1,
    }
    return [*launcher, "train.py", "--objective", objective, *(f"{key}={value}" for key, value in words.items())]


def start_training(objective: str, run_dir: Path) -> subprocess.Popen[bytes]:
    """Start the launcher in a process group of its own, its output in a log file."""
    log = (OUT / "logs" / f"{run_dir.name}.log").open("ab")
    return subprocess.Popen(train_command(objective, run_dir), stdout=log, stderr=log, start_new_session=True)


def train(objective: str, run_dir: Path) -> None:
    """Train to the end, from the newest checkpoint where there is one."""
    process = start_training(objective, run_dir)
    follow(process, run_dir, STEPS)
    if process.wait():
        log = OUT / "logs" / f"{run_dir.name}.log"
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-25:])
        raise UserError(f"training {objective} failed, the end of {log} is\n{tail}")


def train_and_kill(objective: str, run_dir: Path) -> None:
    """Train past a checkpoint, then kill the launcher and all ranks at once, as a power cut would."""
    if (run_dir / "checkpoints" / "latest").is_file():
        return
    process = start_training(objective, run_dir)
    follow(process, run_dir, CHECKPOINT_EVERY + CHECKPOINT_EVERY // 2)
    while process.poll() is None and not (run_dir / "checkpoints" / "latest").is_file():  # it is written in the background
        time.sleep(0.05)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def follow(process: subprocess.Popen[bytes], run_dir: Path, until: int) -> None:
    """Show a progress bar until the run has logged step `until` or has ended."""
    with tqdm(total=until, desc=f"   {run_dir.name}", unit="step") as bar:
        while process.poll() is None and bar.n < until:
            time.sleep(0.2)
            if (step := last_step(run_dir)) != bar.n:
                bar.update(step - bar.n)
        bar.update(last_step(run_dir) - bar.n)


def last_step(run_dir: Path) -> int:
    """The newest step in a run's metrics; 0 before the first."""
    file = run_dir / METRICS_FILE
    lines = file.read_text().splitlines() if file.is_file() else []
    complete = [line for line in lines if line.endswith("}")]
    return int(json.loads(complete[-1])["step"]) if complete else 0


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def summarise(wall_s: float) -> dict[str, Any]:
    """Every figure of summary.json, read from what this run has left."""
    counts = json.loads((OUT / "corpus" / "corpus.json").read_text())["counts"]
    names = ("accepted", "duplicate", "refused", "distinct_brains", "templates", "variants")
    result = json.loads((OUT / "probe" / "result.json").read_text())
    return {
        "corpus": {name: counts[name] for name in names},
        "runs": {objective: run_figures(read_metrics(OUT / objective)) for objective in OBJECTIVES},
        "resume": {"objective": RESUMED, "bitwise": same_losses(OUT / RESUMED, OUT / "undisturbed")},
        "probe": {
            key: result[key] for key in ("label", "auroc", "interval", "random_init_auroc", "raw_voxel_auroc", "caption")
        },
        "wall_s": wall_s,
        "versions": versions(),
    }


def run_figures(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over the first and the last fifth of a run, and the collapse metrics at both ends of a JEPA run."""
    fifth = max(1, len(records) // 5)
    figures: dict[str, Any] = {
        "steps": records[-1]["step"],
        "first_loss": mean(records[:fifth], "loss"),
        "last_loss": mean(records[-fifth:], "loss"),
        "volumes_per_s": mean(records[1:], "volumes_per_s"),
    }
    watched = [record for record in records if "feature_std" in record]
    if "loss_prediction" in records[0]:
        figures |= {name: [watched[0][name], watched[-1][name]] for name in ("feature_std", "rankme")}
    return figures


def mean(records: Sequence[dict[str, Any]], name: str) -> float:
    """The mean of one metric."""
    return float(sum(record[name] for record in records) / len(records))


def same_losses(one: Path, other: Path) -> bool:
    """Whether two runs logged bitwise the same losses at the same steps."""
    first, second = ({r["step"]: r["loss"] for r in read_metrics(run)} for run in (one, other))
    return first == second


def versions() -> dict[str, str]:
    """What ran: Python and the packages that matter."""
    from importlib.metadata import PackageNotFoundError

    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # one of the two DALI builds is installed
            continue
    return found


def table(summary: dict[str, Any]) -> str:
    """The closing table."""
    corpus, probe, resume = summary["corpus"], summary["probe"], summary["resume"]
    lines = [
        f"\ncorpus   {corpus['accepted']} accepted, {corpus['duplicate']} duplicate, {corpus['refused']} refused; "
        f"{corpus['distinct_brains']} distinct brains, {corpus['templates']} templates, {corpus['variants']} rendered variants",
        f"\n{'objective':14}{'steps':>6}{'first loss':>12}{'last loss':>12}{'volumes/s':>11}{'feature std':>20}{'RankMe':>16}",
    ]
    for name, run in summary["runs"].items():
        ends = [" → ".join(f"{v:.3g}" for v in run.get(key, [])) for key in ("feature_std", "rankme")]
        row = f"{name:14}{run['steps']:>6}{run['first_loss']:>12.4f}{run['last_loss']:>12.4f}{run['volumes_per_s']:>11.1f}"
        lines.append(row + f"{ends[0]:>20}{ends[1]:>16}")
    low, high = probe["interval"]
    lines += [
        f"\nresume   {resume['objective']} killed and resumed: losses bitwise the same: {resume['bitwise']}",
        f"probe    {probe['label']}: AUROC {probe['auroc']:.3f} [{low:.3f}, {high:.3f}]; random encoder "
        f"{probe['random_init_auroc']:.3f}, raw voxels {probe['raw_voxel_auroc']:.3f} ({probe['caption']})",
        f"wall     {summary['wall_s']:.0f} s",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    run_main(main)
