"""The units that the headline probe judged best and worst.

Axes: T tested units, Y/X pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

from mri_fm.evaluate import figures
from mri_fm.evaluate.cache import Embedded
from mri_fm.evaluate.compare import HEADLINE_METHOD, Comparison
from mri_fm.evaluate.task import Task
from mri_fm.observe.page import figure_address

EXAMPLES = 6  # of each kind


@dataclass(frozen=True)
class Verdict:
    """What the headline probe said of a unit it had not learned.

    Attributes:
        unit: its number in the task.
        truth, said: in words.
        right: whether it is among the best judged rather than the worst.
    """

    unit: int
    truth: str
    said: str
    right: bool


def verdicts(task: Task, comparison: Comparison, count: int) -> list[Verdict]:
    """The `count` units judged best, best first, and as many worst, worst first; of survival the lowest and highest hazard."""
    scores = comparison.scores[HEADLINE_METHOD][0]
    target, score_T = scores.target, scores.score_SK[:, 0]
    if target.kind == "classification":
        right_T = scores.score_SK[np.arange(len(target)), target.labels]
        truths = [task.classes[k] for k in target.labels]
        said = [
            f"{task.classes[k]} ({p:.2f})"
            for k, p in zip(scores.score_SK.argmax(axis=1), scores.score_SK.max(axis=1), strict=True)
        ]
    elif target.kind == "regression":
        right_T = -np.abs(score_T - target.value_S)
        truths, said = ([f"{value:.1f}" for value in values] for values in (target.value_S, score_T))
    else:
        right_T = -score_T
        ends = [" (event)" if seen else " (censored)" for seen in target.event_S]
        truths = [f"{value:g}{end}" for value, end in zip(target.value_S, ends, strict=True)]
        said = [f"log hazard {value:+.2f}" for value in score_T]
    order = np.argsort(-right_T, kind="stable")
    shown = min(count, len(order) // 2)
    chosen = [(i, True) for i in order[:shown]] + [(i, False) for i in order[::-1][:shown]]
    return [Verdict(int(comparison.tested_T[i]), truths[i], said[i], right) for i, right in chosen]


def headings(kind: str) -> tuple[str, str]:
    """What the two groups of `verdicts` are called."""
    return ("Lowest hazard", "Highest hazard") if kind == "survival" else ("Most right", "Most wrong")


def examples(task: Task, embedded: Embedded, comparison: Comparison) -> str:
    """Cards of the units, as HTML."""
    found = verdicts(task, comparison, EXAMPLES)
    parts = ["<p>Out of fold: the truth, and what the headline probe said.</p>"]
    for heading, right in zip(headings(task.target.kind), (True, False), strict=True):
        cards = [_card(task, embedded, verdict) for verdict in found if verdict.right == right]
        parts.append(f'<h3>{heading}</h3><div class="examples">{"".join(cards)}</div>')
    return "\n".join(parts)


def _card(task: Task, embedded: Embedded, verdict: Verdict) -> str:
    volume = int(np.flatnonzero(task.unit_V == verdict.unit)[0])
    slice_YX: NDArray[np.float32] = embedded.inputs["slices"][volume].numpy()
    picture = f'<img alt="middle slice" src="{figure_address(figures.picture(slice_YX))}">'
    lines: Sequence[str] = (task.unit_names[verdict.unit][:24], f"is {verdict.truth}", f"said {verdict.said}")
    return f"<figure>{picture}<figcaption>{'<br>'.join(map(escape, lines))}</figcaption></figure>"
