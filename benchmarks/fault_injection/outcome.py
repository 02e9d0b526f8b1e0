"""What a fault has cost: steps, time, and whether the run has become the one that it would have been."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fault_injection.job import Job
from fault_injection.progress import Progress

Result = tuple[dict[int, float], dict[str, str]]


@dataclass(frozen=True)
class Outcome:
    """One run."""

    fault: str
    seed: int
    struck_after: int  # the step that had been logged last
    again: int  # steps that were done twice
    beyond: int  # those of them that a whole checkpoint had: a step that was really lost
    noticed_s: float | None  # from the fault to the end of the ranks; None: they went on
    resumed_s: float | None  # from the fault to the next step; None: there was none left
    owner: int  # times that its owner had to start it again
    codes: list[int]
    equal: bool  # all losses, and the last checkpoint's bytes, as in the undisturbed run

    def started_by(self) -> str:
        """Who had to start it again."""
        if self.owner:
            return "you"
        return "nobody" if self.noticed_s is None else "supervisor"


def judge(fault: str, seed: int, job: Job, damaged: bool, undisturbed: Result) -> Outcome:
    """Look back at a run that is done."""
    progress, struck_at = job.progress, job.struck_at
    started = [time for time in progress.events("started") if time > struck_at]
    ended = [time for time in progress.events("ended") if struck_at < time < max(started, default=0.0)]
    again, beyond = repeated(progress, damaged)
    resumed = next((time for time, _ in progress.logged if time > max([struck_at, *started])), None)
    return Outcome(
        fault,
        seed,
        struck_after=next((step for time, step in reversed(progress.logged) if time <= struck_at), 0),
        again=again,
        beyond=beyond,
        noticed_s=min(ended, default=struck_at) - struck_at if started else None,
        resumed_s=None if resumed is None else resumed - struck_at,
        owner=len(job.codes) - 1,
        codes=job.codes,
        equal=progress.result(job.plan.steps) == undisturbed,
    )


def repeated(progress: Progress, damaged: bool) -> tuple[int, int]:
    """Steps done again, and how many of these were in a checkpoint that was published before and not `damaged` by us."""
    again = beyond = 0
    for (when, last), (_, first) in zip(progress.logged, progress.logged[1:], strict=False):
        if first > last:
            continue
        again += last - first + 1
        whole = sorted({step for time, step in progress.published if time <= when} | {0})
        beyond += max(0, (whole[-2] if damaged else whole[-1]) - (first - 1))
    return again, beyond


def row(fault: str, outcomes: Sequence[Outcome]) -> str:
    """All runs of a fault, in a line of Markdown."""
    again = ", ".join(str(outcome.again) for outcome in outcomes)
    noticed = [outcome.noticed_s for outcome in outcomes if outcome.noticed_s is not None]
    resumed = [outcome.resumed_s for outcome in outcomes if outcome.resumed_s is not None]
    cells: list[Any] = [
        fault,
        len(outcomes),
        again,
        sum(outcome.beyond for outcome in outcomes),
        f"{statistics.median(noticed):.0f}" if noticed else "",
        f"{statistics.median(resumed):.0f}" if resumed else "",
        ", ".join(sorted({outcome.started_by() for outcome in outcomes})),
        f"{sum(outcome.equal for outcome in outcomes)} of {len(outcomes)}",
    ]
    return "| " + " | ".join(map(str, cells)) + " |"


HEADER = (
    "| fault | runs | steps done again | lost | s until noticed | s until the next step | started again by | equal |\n"
    "|---|---|---|---|---|---|---|---|"
)
