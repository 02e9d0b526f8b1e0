"""What real faults cost a supervised run of two ranks: steps, time, and whether it becomes the run that it would have been.

    python benchmarks/faults.py                                # each fault once: about a minute each on an idle machine
    python benchmarks/faults.py --seeds 0 1 2                  # thrice; what is finished is not done again
    python benchmarks/faults.py --bids DATASET --only "kill -9 of a rank"

Each run is `python -m launch.supervise -- deepspeed … train.py`: jepa_vcr, ZeRO stage 2, twelve steps, a checkpoint every
three. One fault strikes it, for real, at a moment that its seed draws. Where the supervisor ends, as it does on what only a
person can mend, the script mends it and starts the same command again.

"Steps done again" are those since the newest whole checkpoint; "lost" are those that had been in a whole checkpoint, of which
there may be none. "Equal" compares the loss of every step and the bytes of the last checkpoint with those of a run
that was left alone. Faults of disk and network need root (a small tmpfs; two network namespaces) and are left out without it.

Prints Markdown for `benchmarks/results/faults.md`.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from fault_injection.faults import FAULTS, Fault, Stage, corrupt_newest, nothing
from fault_injection.job import Job, Plan
from fault_injection.nodes import why_not
from fault_injection.outcome import HEADER, Outcome, Result, judge, row
from fault_injection.progress import Progress
from loaders.scans import BENCH_FOLDER, prepare
from tqdm import tqdm

VOLUMES = 12
MOST_STARTS = 6


def main() -> int:
    """The command line."""
    options = parse()
    corpus, _ = prepare(options.out, options.bids, VOLUMES)
    plan = Plan(corpus, options.steps, options.every)
    bench = Bench(plan, options.out.resolve() / f"faults-{options.steps}-{options.every}")
    faults = [fault for fault in FAULTS if fault.name in options.only]
    asked = [(fault, seed) for seed in options.seeds for fault in faults if bench.can_do(fault)]
    failed = 0
    for fault, seed in tqdm(asked, desc="faults", unit="run"):
        try:
            if (fault.name, seed) not in bench.outcomes():  # of another process, too
                bench.run(fault, seed)
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            failed += 1
            print(f"{fault.name}, seed {seed}: {error}", file=sys.stderr, flush=True)
    print(bench.report(faults))
    return failed and 1


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [fault.name for fault in FAULTS]
    parser.add_argument("--bids", type=Path, help="scans of this data set; by default they are rendered")
    parser.add_argument("--out", type=Path, default=BENCH_FOLDER, help="corpus, runs and outcomes; what is there is reused")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", nargs="+", default=names, choices=names, metavar="FAULT")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--every", type=int, default=3, help="steps between checkpoints")
    return parser.parse_args()


class Bench:
    """All runs of one plan, and what has come of those that are finished."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        """Nothing is started yet; several processes may have the same folder, at other seeds."""
        self.plan, self.folder = plan, folder
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / "outcomes.jsonl"
        self._no_nodes = why_not()

    def outcomes(self) -> dict[tuple[str, int], Outcome]:
        """What is finished, by fault and seed."""
        lines = self._file.read_text().splitlines() if self._file.is_file() else []
        found = [Outcome(**json.loads(line)) for line in lines]
        return {(outcome.fault, outcome.seed): outcome for outcome in found}

    def can_do(self, fault: Fault) -> bool:
        """Whether this machine allows it; if not, it is said."""
        reason = self._no_nodes if fault.two_nodes or fault.small_disk else None
        if reason is not None:
            print(f"left out: {fault.name}: {reason}", file=sys.stderr)
        return reason is None

    def run(self, fault: Fault, seed: int) -> None:
        """Strike one run and see it through."""
        undisturbed = self.undisturbed()
        with self._job(fault, f"{fault.name}-{seed}".replace(" ", "-")) as job:
            job.start()
            fault.strike(job, random.Random(f"{fault.name} {seed}"))
            see_through(job, fault)
            outcome = judge(fault.name, seed, job, fault.strike is corrupt_newest, undisturbed)
        with self._file.open("a") as file:
            file.write(json.dumps(asdict(outcome)) + "\n")

    def undisturbed(self) -> Result:
        """The run that nothing happens to."""
        quiet = Fault("undisturbed", lambda job, draw: None)
        run_dir = self.folder / quiet.name / "run"
        if not (self.folder / "undisturbed.ok").is_file():
            with self._job(quiet, quiet.name) as job:
                job.start()
                see_through(job, quiet)
            (self.folder / "undisturbed.ok").touch()
        return Progress(run_dir).result(self.plan.steps)

    @contextmanager
    def _job(self, fault: Fault, name: str) -> Iterator[Job]:
        stage = Stage(self.folder / name, fault)
        with stage.stack:
            plan, run_dir, nodes = stage.prepare(self.plan)
            with Progress(run_dir) as progress:
                job = Job(plan, progress, self.folder / f"{name}.log", fault.words, nodes)
                try:
                    yield job
                finally:
                    job.kill_all()

    def report(self, faults: list[Fault]) -> str:
        """The table."""
        outcomes = sorted(self.outcomes().items())
        runs = {fault.name: [outcome for (name, _), outcome in outcomes if name == fault.name] for fault in faults}
        load = os.getloadavg()[0]
        count = sum(map(len, runs.values()))
        heading = (
            f"## {datetime.date.today()}, {platform.machine()} CPU, {os.cpu_count()} threads, load {load:.0f}: {count} runs of "
            f"{self.plan.steps} steps, a checkpoint every {self.plan.every}\n"
        )
        return "\n".join([heading, HEADER, *(row(name, found) for name, found in runs.items() if found)])


def see_through(job: Job, fault: Fault) -> None:
    """Wait for the end; start it again, as its owner would, until all steps are done.

    Raises:
        RuntimeError: they never are.
    """
    for _ in range(MOST_STARTS):
        if job.wait():
            return
        if fault.mend is not nothing:
            fault.mend(job)
        job.start()
    raise RuntimeError(f"still not done after {MOST_STARTS} starts: {job.log}")


if __name__ == "__main__":
    sys.exit(main())
