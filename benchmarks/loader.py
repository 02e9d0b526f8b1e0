"""What loading costs per volume: ours, webdataset + torch, MONAI, TorchIO and the paper's way, side by side.

    python benchmarks/loader.py                  # 1 mm scans rendered from the heads in installed packages, under 6 minutes
    python benchmarks/loader.py --bids DATASET   # T1w images of a BIDS data set instead
    python benchmarks/loader.py --loaders ours "webdataset + torch" --rounds 9 --no-training

Each loader is a process of its own with two workers (threads or processes, whichever it has), one intra-op thread, batch 4, and
the same augmentation in its library's own operators (`benchmarks/loaders/peers.py`): random plane, square crop, percentile
window, resize to 64 × 160 × 160, scale, left-right flip, gamma, bias field, blur of one in five, z-score, noise. They take
turns, a round each. A round begins and ends with full queues, so that a loader that works ahead gains nothing; CPU time is that
of its process tree, wall time ends with its last CPU time. All are given the brain's box; percentiles are known except where
raw files are read. On a GPU, our graph runs there, every batch is moved there, and the wall time counts.

MONAI and TorchIO come with `pip install -e '.[bench]'`. Prints Markdown for `benchmarks/results/loader.md`.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch
from loaders.measure import Contestant, Cost, Loader
from loaders.ours import ours, read_and_verify
from loaders.peers import monai, paper, torchio, webdataset_torch
from loaders.scans import BENCH_FOLDER, VOLUMES, prepare
from loaders.settings import Settings
from loaders.training import data_wait, volumes_per_second_needed
from tqdm import tqdm

from mri_fm.errors import UserError, run_main

OURS, OURS_STILL, OURS_ROTATED = "ours", "ours, without noise and affine", "ours, with rotation"
READERS = 2
OURS_READERS = f"ours, {READERS} processes read"
ROTATION = 10.0  # degrees, as in the paper
WAIT_TARGET = 0.02


@dataclass(frozen=True)
class Entry:
    """A row: its loader, the volumes of a round, the row it is compared with and the largest ratio ours/its wanted."""

    load: Loader
    volumes: int
    ours: str = ""
    most: float | None = None
    most_ms: float | None = None


def entries(settings: Settings) -> dict[str, Entry]:
    """Name → row."""
    rotated = replace(settings, rotation=ROTATION)
    still = replace(settings, noise=0.0, scale=0.0)
    fast, slow = 6 * settings.batch, 2 * settings.batch
    return {
        "ours, reading and verifying alone": Entry(partial(read_and_verify, settings), 4 * fast, most_ms=13),
        OURS: Entry(partial(ours, settings), fast, most_ms=90),
        OURS_READERS: Entry(partial(ours, settings, readers=READERS), fast),
        "webdataset + torch": Entry(partial(webdataset_torch, settings), fast, OURS, 1.0),
        OURS_STILL: Entry(partial(ours, still), fast),
        "webdataset + torch, without noise and affine": Entry(partial(webdataset_torch, still), fast, OURS_STILL, 1.0),
        OURS_ROTATED: Entry(partial(ours, rotated), fast),
        "webdataset + torch, with rotation": Entry(partial(webdataset_torch, rotated), fast, OURS_ROTATED, 1.0),
        "MONAI, .nii.gz": Entry(partial(monai, settings, cached=False), slow, OURS, 1 / 4),
        "MONAI, cached arrays": Entry(partial(monai, settings, cached=True), slow, OURS),
        "TorchIO, .nii.gz": Entry(partial(torchio, settings, cached=False), slow, OURS),
        "TorchIO, cached arrays": Entry(partial(torchio, settings, cached=True), slow, OURS),
        "nibabel + zoom + TorchIO (paper), .nii.gz": Entry(partial(paper, settings), slow, OURS, 1 / 6),
    }


def measure(rows: dict[str, Entry], device: str, rounds: int) -> tuple[dict[str, list[Cost]], list[str]]:
    """Costs by name, and lines on memory for our own loaders."""
    contestants = {name: Contestant(row.load, device) for name, row in rows.items()}
    try:
        memory = []
        for name, contestant in contestants.items():
            bare = contestant.imported()
            contestant.take(rows[name].volumes)
            full = contestant.memory()
            memory.append(f"| {name} | {full.total:.0f} | {full.total - bare.total:.0f} | {full.shared:.0f} |")
        costs: dict[str, list[Cost]] = {name: [] for name in rows}
        for _ in tqdm(range(rounds), desc="rounds"):
            for name, contestant in contestants.items():
                costs[name].append(contestant.take(rows[name].volumes))
        return costs, memory
    finally:
        for contestant in contestants.values():
            contestant.close()


def table(rows: dict[str, Entry], costs: dict[str, list[Cost]]) -> str:
    """One line per loader; ratios are medians over the rounds."""
    lines = ["| loader | CPU-ms per volume (range) | volumes/s | ours ÷ this | target |", "|---|---|---|---|---|"]
    for name, row in rows.items():
        each_ms = sorted(cpu_ms(cost) for cost in costs[name])
        ratio = target = ""
        if row.ours in costs:
            pairs = zip(costs[row.ours], costs[name], strict=True)
            ratio = f"{statistics.median(cpu_ms(our) / cpu_ms(its) for our, its in pairs):.2f}"
        if row.most is not None:
            target = f"≤ {row.most:.2f}"
        elif row.most_ms is not None:
            target = f"≤ {row.most_ms:.0f} ms"
        middle = f"{statistics.median(each_ms):.1f} ({each_ms[0]:.1f}–{each_ms[-1]:.1f})"
        lines.append(f"| {name} | {middle} | {volumes_per_second(costs[name]):.1f} | {ratio} | {target} |")
    return "\n".join(lines)


def cpu_ms(cost: Cost) -> float:
    return 1000 * cost.cpu / cost.volumes


def volumes_per_second(rounds: Sequence[Cost]) -> float:
    return statistics.median(cost.volumes / cost.wall for cost in rounds)


def training_lines(corpus: Path, size: Sequence[int]) -> list[str]:
    """What steps of ViT-S/8 wait, at the paper's input and at the default one."""
    lines = ["| ViT-S/8, MAE | s per step | wait, ms | share of the step | target |", "|---|---|---|---|---|"]
    cases = {
        f"{' × '.join(map(str, size))}, batch 1": ([f"data.size={list(size)}", "train.global_batch=1"], 3),
        "32 × 64 × 64, batch 8": ([], 12),
    }
    for name, (words, steps) in cases.items():
        wait = data_wait(corpus, ["model=vit_small", *words], steps)
        lines.append(
            f"| {name} | {wait.step:.2f} | {1000 * wait.wait:.1f} | {wait.wait / wait.step:.2%} | < {WAIT_TARGET:.0%} |"
        )
    return lines


def needed_lines(size: Sequence[int], costs: dict[str, list[Cost]]) -> list[str]:
    """What the steps of one H100 would take, beside what our loader gives here."""
    given = f"{volumes_per_second(costs[OURS]):.0f}" if OURS in costs else ""
    lines = ["| steps on one H100 at 790 TFLOP/s | volumes/s needed | ours gives here |", "|---|---|---|"]
    for objective in ("mae", "jepa_vcr"):
        needed = volumes_per_second_needed(objective, ["model=vit_base", f"data.size={list(size)}"])
        lines.append(f"| ViT-B/8, {objective} | {needed:.0f} | {given} |")
    return lines


def heading(options: argparse.Namespace, count: int, payload: float) -> str:
    where = torch.cuda.get_device_name() if options.device == "cuda" else f"{platform.machine()} CPU"
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    source = options.bids.name if options.bids else "1 mm renderings of the heads in installed packages"
    return (
        f"## {datetime.date.today()}, {where}, {os.cpu_count()} cores\n\n"
        f"{count} volumes ({source}), payload {payload:.1f} MB in the mean, page cache warm; batch {options.batch}, "
        f"{options.workers} workers, {options.rounds} rounds; torch {torch.__version__}, commit {commit}; load average "
        f"{os.getloadavg()[0]:.1f} at the start.\n"
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bids", type=Path, help="take T1w images of this data set")
    parser.add_argument("--folder", type=Path, default=BENCH_FOLDER, help="for scans and corpus, kept for the next time")
    parser.add_argument("--volumes", type=int, default=VOLUMES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--size", type=int, nargs=3, default=(64, 160, 160), help="depth, height, width of the input")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--loaders", nargs="+", help="only these rows")
    parser.add_argument("--no-training", action="store_true", help="leave the training steps out")
    return parser.parse_args()


def chosen(rows: dict[str, Entry], names: Sequence[str] | None) -> dict[str, Entry]:
    unknown = [name for name in names or () if name not in rows]
    if unknown:
        raise UserError(f"--loaders names {', '.join(unknown)}; there are: {'; '.join(rows)}")
    wanted = {name: row for name, row in rows.items() if not names or name in names}
    for package in ("monai", "torchio"):
        if find_spec(package) is None and any(package in name.lower() for name in wanted):
            raise UserError(f"{package} is not installed: pip install -e '.[bench]', or choose --loaders without it")
    return wanted


def main() -> int:
    options = parse()
    settings = Settings(Path(), (), tuple(options.size), options.batch, options.workers, options.device)
    chosen(entries(settings), options.loaders)  # before any work is done
    corpus, scans = prepare(options.folder, options.bids, options.volumes)
    settings = replace(settings, corpus=corpus, scans=tuple(scans))
    rows = chosen(entries(settings), options.loaders)
    payload = statistics.mean(scan.array.stat().st_size for scan in scans) / 1e6
    print(heading(options, len(scans), payload))
    costs, memory = measure(rows, options.device, options.rounds)
    print(table(rows, costs), flush=True)
    print("\n| process tree, MiB | in all | of it the loader | shared memory |\n|---|---|---|---|")
    print("\n".join(memory), flush=True)
    if not options.no_training:
        print("\n" + "\n".join(training_lines(corpus, options.size)))
        print("\n" + "\n".join(needed_lines(options.size, costs)))
    return 0


if __name__ == "__main__":
    run_main(main)
