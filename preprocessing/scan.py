"""`python -m preprocessing.scan --raw RAW`: what a build would decide on every input; nothing is written."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator

from mri_fm.errors import run_main
from preprocessing.build import Spec, survey
from preprocessing.build_shards import add_cluster, add_reading, reading_of, resumable
from preprocessing.decisions import decide
from preprocessing.plan import keep_first
from preprocessing.privacy import new_key
from preprocessing.runner import task_runner
from preprocessing.source import list_source, open_source
from preprocessing.tasks import Decision


def main() -> None:
    """Print a tab-separated line per input on stdout (decision, code, source path, reason), and a summary on stderr."""
    parser = argparse.ArgumentParser(prog="python -m preprocessing.scan", description=__doc__.split(": ", 1)[1])
    add_reading(parser)
    add_cluster(parser)
    arguments = parser.parse_args()
    with resumable(arguments.raw):
        rows = list(scan(arguments.raw, Spec(**reading_of(arguments)), arguments.workers, arguments.scheduler))
    for row in rows:
        print("\t".join(row))
    counts = Counter(decision if decision != "refused" else f"refused as {code}" for decision, code, _, _ in rows)
    print(f"{len(rows)} inputs: " + ", ".join(f"{n} {what}" for what, n in counts.most_common()), file=sys.stderr)


def scan(raw: str, spec: Spec, workers: int = 1, scheduler: str | None = None) -> Iterator[tuple[str, str, str, str]]:
    """(decision, code, source path, reason) of every input, in the order of source paths.

    Raises:
        UserError, ResumableError, OSError: as `preprocessing.build.build`.
    """
    source = open_source(raw)
    files = list_source(source)
    inputs, knowledge = survey(source, files, bytes.fromhex(new_key()), spec)
    with task_runner(workers, scheduler) as run:
        decisions = decide(run, source.address, None, inputs, files, spec, knowledge)
    kept = keep_first({path: d.content_hash for path, d in decisions.items() if not d.code}, ())
    for path, decision in decisions.items():
        yield _row(path, decision, kept)


def _row(path: str, decision: Decision, kept: dict[str, str]) -> tuple[str, str, str, str]:
    if decision.code:
        return "refused", decision.code, path, decision.reason
    if kept[decision.content_hash] == path:
        return "accepted", "", path, ""
    return "duplicate", "duplicate", path, f"same voxels as {kept[decision.content_hash]}"


if __name__ == "__main__":
    run_main(main)
