"""Behind the gate: five paired seeds of an objective with and without its extra loss, on that loss' primary task."""

from __future__ import annotations

import argparse
from pathlib import Path

from pretraining.report import table
from pretraining.runs import Bench, Run, train_all

from claims.gate_design import ATTEMPTS, POWER_SEEDS, POWER_STEPS, PRIMARY, bench_of, power_runs
from claims.looks import METRIC, Figures, append_looks, compare_on, embedded, look_once
from mri_fm.data.corpus import Corpus
from mri_fm.evaluate.compare import gain, measured
from mri_fm.evaluate.features import Features
from mri_fm.evaluate.methods import PROBES, TRAINED, Method

PAIRS = {
    "claim 1": ("mae_spectral", "mae", "sharpness", "texture"),
    "claim 2": ("jepa_vcr", "jepa", "regional", "regional_correlated"),
}
"""With, without, the primary task, and the negative control, which is read as the primary task is."""


def run(number: int, options: argparse.Namespace) -> bool:
    """Train what is not finished, seed by seed, and print what pairs differ by once all their seeds are; whether all are."""
    bench = bench_of(options.out, ATTEMPTS[number - 1], POWER_STEPS)
    runs = power_runs(number)
    finished = train_all(bench, runs, options.minutes)
    print(f"### Power: {len(finished)} of {len(runs)} runs of {bench.steps} steps\n")
    rows = [row for claim in PAIRS for row in rows_of(claim, bench, [r for r in finished if r.arm == "power"], options.looks)]
    print(table(["claim", "task", "with", "without", "difference", "each seed", ""], rows))
    for exploratory in finished[len(POWER_SEEDS) * 4 :]:
        look_once(bench, exploratory, options.looks)
    return len(finished) == len(runs)


def rows_of(claim: str, bench: Bench, finished: list[Run], record: Path) -> list[list[str]]:
    """The primary task and the negative control; nothing while a seed is missing."""
    ours, other, primary, control = PAIRS[claim]
    pairs = [[r for r in finished if r.objective == name] for name in (ours, other)]
    if any(len(runs) < len(POWER_SEEDS) for runs in pairs):
        return []
    reading, corpus = PRIMARY[primary], Corpus.open(bench.corpus, "size")
    readout = f"{TRAINED}/{PROBES[reading].readout}"
    features = [tuple(Features.plain(embedded(corpus, bench.folder(r), bench.steps)[readout]) for r in runs) for runs in pairs]
    methods = {name: Method(own, PROBES[reading].fit) for name, own in zip((ours, other), features, strict=True)}
    rows = []
    for task in (primary, control):
        comparison = compare_on(corpus, task, methods)
        one, two = (measured(METRIC, comparison, name) for name in (ours, other))
        more = gain(METRIC, comparison, ours, other)
        line = [f"{ours} - {other}", bench.steps, task, reading, int(task == primary), one["value"], two["value"], more]
        append_looks(record, [line])
        rows.append([claim, task, *shown(one, two, more), verdict(more) if task == primary else "control"])
    return rows


def shown(one: Figures, two: Figures, more: Figures) -> list[str]:
    """Both AUROCs, their difference with its interval over people and seeds, and the difference of each seed."""
    low, high = more["interval"]
    seeds = " ".join(f"{a - b:+.3f}" for a, b in zip(one["refits"], two["refits"], strict=True))
    return [f"{one['value']:.3f}", f"{two['value']:.3f}", f"{more['value']:+.3f} [{low:+.3f}, {high:+.3f}]", seeds]


def verdict(more: Figures) -> str:
    """By the rule of the design."""
    return "supported" if more["interval"][0] > 0 else "not supported"
