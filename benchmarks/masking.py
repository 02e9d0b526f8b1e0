"""What drawing masks costs, against a Python loop over tokens.

    python benchmarks/masking.py                  # 8000 tokens (160³ voxels in patches of 8³), batch 32, 75 % hidden
    python benchmarks/masking.py --tokens 8 25 25 # another grid

The loop is what arXiv 2606.13315's code does, written from its description: coordinates are drawn with replacement, and each
hidden token is written into a 3D mask by itself. One such mask for the whole batch is its way; one for each sample is what our
masks are. A plain Python loop that draws until the exact number of distinct tokens is hidden, without torch, stands beside it.
All forms are timed in turns in one run; times are CPU time of the process on the CPU and wall time between synchronisations on
a GPU, and the medians over rounds are given.

Prints Markdown for `benchmarks/results/masking.md`.
"""

from __future__ import annotations

import argparse
import datetime
import math
import platform
import random
import statistics
import subprocess
import time
from collections.abc import Callable

import torch
from torch import Tensor

from mri_fm.masking import Blocks, MaskDraw, count_hidden, multiblock_mask, tube_mask, uniform_mask

Size3 = tuple[int, int, int]
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TARGET = 50


def one_by_one(grid: Size3, hidden: int) -> tuple[Tensor, Tensor]:
    """One mask as published: 1 − exp(−ratio) of the tokens are hidden, 52.8 % for 75 %."""
    drawn = [torch.randint(0, size, (hidden,)) for size in grid]
    visible = torch.ones(grid, dtype=torch.int32)
    for z, y, x in zip(*drawn, strict=True):
        visible[z : z + 1, y : y + 1, x : x + 1] = 0
    flat = visible.flatten()
    return torch.nonzero(flat).squeeze(), torch.argwhere(flat == 0).squeeze()


def distinct_one_by_one(num_tokens: int, hidden: int) -> list[int]:
    chosen: set[int] = set()
    while len(chosen) < hidden:
        chosen.add(random.randrange(num_tokens))
    return sorted(chosen)


def forms(grid: Size3, batch: int, ratio: float) -> dict[str, Callable[[], object]]:
    num_tokens = math.prod(grid)
    hidden = count_hidden(num_tokens, ratio)
    positions_B = torch.arange(batch, device=DEVICE)
    foreground_BN = torch.rand(batch, num_tokens, device=DEVICE) < 0.45
    draw, background_last = MaskDraw(0, positions_B), MaskDraw(0, positions_B, foreground_BN=foreground_BN)
    return {
        "loop over tokens, a mask per sample": lambda: [one_by_one(grid, hidden) for _ in range(batch)],
        "loop over tokens, one mask per batch": lambda: one_by_one(grid, hidden),
        "loop over distinct tokens without torch, a mask per sample": lambda: [
            distinct_one_by_one(num_tokens, hidden) for _ in range(batch)
        ],
        "random": lambda: uniform_mask(grid, ratio, draw),
        "tube": lambda: tube_mask(grid, ratio, draw),
        "multiblock, 8 blocks": lambda: multiblock_mask(grid, ratio, draw, Blocks()),
        "random, background last": lambda: uniform_mask(grid, ratio, background_last),
        "multiblock, background last": lambda: multiblock_mask(grid, ratio, background_last, Blocks()),
    }


def seconds(call: Callable[[], object]) -> float:
    if DEVICE.type != "cuda":
        start = time.process_time()
        call()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each form, after one call that is not counted."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            spent = seconds(call)
            if number:
                taken[name].append(spent)
    return {name: statistics.median(values) for name, values in taken.items()}


def table(taken: dict[str, float]) -> str:
    loop = next(iter(taken.values()))
    lines = ["| form | ms per batch | faster than the first row |", "|---|---|---|"]
    lines += [f"| {name} | {1e3 * spent:.3g} | {loop / spent:.3g} × |" for name, spent in taken.items()]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs=3, default=(20, 20, 20), help="along depth, height, width")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--ratio", type=float, default=0.75)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    depth, height, width = options.tokens
    taken = measure(forms((depth, height, width), options.batch, options.ratio), options.rounds)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    where = (
        torch.cuda.get_device_name() if DEVICE.type == "cuda" else f"{platform.machine()}, {torch.get_num_threads()} threads"
    )
    print(f"## {datetime.date.today()}, {where}\n")
    print(
        f"{depth} × {height} × {width} tokens, batch {options.batch}, {options.ratio:.0%} hidden; median of {options.rounds} "
        f"rounds; torch {torch.__version__}, Python {platform.python_version()}, commit {commit}. "
        f"Target: random at least {TARGET} × faster than the first row.\n"
    )
    print(table(taken))


if __name__ == "__main__":
    main()
