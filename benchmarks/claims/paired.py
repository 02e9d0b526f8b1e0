"""Behind the gate: five paired seeds of an objective with and without its extra loss, on that loss' primary task.

Axes: M seeds.
"""

from __future__ import annotations

import argparse

from pretraining.report import table
from pretraining.runs import Bench, train_all

from claims.gate_design import ATTEMPTS, POWER_SEEDS, POWER_STEPS, PRIMARY, bench_of, power_runs
from claims.looks import look_once

PAIRS = {
    "claim 1": ("mae_spectral", "mae", "sharpness", "texture"),
    "claim 2": ("jepa_vcr", "jepa", "regional", "regional_correlated"),
}
"""With, without, the primary task and the negative control, which is read as the primary task is."""


def run(number: int, options: argparse.Namespace) -> None:
    """Train what is not finished, seed by seed, and print the paired differences of the seeds that are."""
    bench = bench_of(options.out, ATTEMPTS[number - 1], POWER_STEPS)
    runs = power_runs(number)
    finished = train_all(bench, runs, options.minutes)
    for each in finished:
        look_once(bench, each, options.looks)
    print(f"### Power: {len(finished)} of {len(runs)} runs of {bench.steps} steps\n")
    rows = [row for claim in PAIRS for row in rows_of(claim, bench, number, options)]
    print(table(["claim", "task", *(f"seed {seed}" for seed in POWER_SEEDS), "mean"], rows))


def rows_of(claim: str, bench: Bench, number: int, options: argparse.Namespace) -> list[list[str]]:
    """Differences of AUROC, with less without, of each seed, and their mean."""
    ours, other, primary, control = PAIRS[claim]
    rows = []
    for task in (primary, control):
        differences = paired_differences(ours, other, task, PRIMARY[primary], bench, number, options)
        cells = [f"{d:+.3f}" if d is not None else "" for d in differences]
        known = [d for d in differences if d is not None]
        rows.append([claim, task, *cells, f"{sum(known) / len(known):+.3f}" if known else ""])
    return rows


def paired_differences(
    ours: str, other: str, task: str, reading: str, bench: Bench, number: int, options: argparse.Namespace
) -> list[float | None]:
    """By seed; None where one of the two runs is not finished."""
    by_name = {(r.objective, r.seed): r for r in power_runs(number) if r.arm == "power"}
    values: list[float | None] = []
    for seed in POWER_SEEDS:
        pair = [by_name[name, seed] for name in (ours, other)]
        if not all(bench.finished(r) for r in pair):
            values.append(None)
            continue
        first, second = (look_once(bench, r, options.looks)[task][f"{reading}/trained"]["value"] for r in pair)
        values.append(first - second)
    return values
