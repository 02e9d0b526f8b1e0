"""Pass 1 over all inputs, remembered as it goes: a build that is killed does not decide twice, and no kill decides anything."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING

from mri_fm.volume.discover import Input, fingerprint
from preprocessing.datasets.adapter import Knowledge
from preprocessing.isolation import Isolated, ProcessDied
from preprocessing.place import Place
from preprocessing.runner import Runner
from preprocessing.source import Files
from preprocessing.tasks import Decision, examine

if TYPE_CHECKING:
    from preprocessing.build import Spec

DECISIONS_FILE = "private/decisions.json"
FRESH_DIR = "private/decisions"
SAVE_EVERY_S = 20.0
CRASHED = "reader_crashed"

Marked = tuple[Input, str]  # an input and its fingerprint


def decide(
    run: Runner, raw: str, place: Place | None, inputs: Sequence[Input], files: Files, spec: Spec,
    knowledge: dict[str, Knowledge],
) -> dict[str, Decision]:  # fmt: skip
    """Pass 1, but for inputs that a rule excludes, or that an earlier pass under the same spec has seen unchanged.

    Args:
        run: on what.
        raw: address of the scans.
        place: where decisions are remembered; None: nowhere.
        inputs: what to decide on.
        files: sizes and times by path.
        spec: the options.
        knowledge: by source path.

    Returns:
        The decisions by source path, in the order of the inputs.
    """
    marked = [(item, fingerprint(item, files)) for item in inputs if not knowledge[item.source_path].excluded]
    memory = _Memory(place, spec.hash())
    known = memory.recall()
    todo = [(item, mark) for item, mark in marked if getattr(known.get(item.source_path), "fingerprint", None) != mark]
    look = partial(examine, raw, spec.max_spacing, spec.reference_volume, processing=spec.processing)
    examined = run(look, todo, "examine", partial(examine_alone, look), arrived=memory.note)
    known.update({decision.source_path: decision for decision in examined})
    decisions = {item.source_path: known[item.source_path] for item, _ in marked}
    memory.keep(decisions)
    return {item.source_path: _by_rule(item, knowledge[item.source_path], decisions.get(item.source_path)) for item in inputs}


def _by_rule(item: Input, knowledge: Knowledge, decision: Decision | None) -> Decision:
    """The decision, or the exclusion by a rule that a data set's adapter knows; these are not kept, since tables may change."""
    broken = knowledge.excluded
    if decision is not None and not broken and not decision.code:
        broken = knowledge.intensity.broken(decision.mean, decision.std)
    if decision is not None and not broken:
        return decision
    return Decision(item.source_path, "", "excluded_by_rule", f"{knowledge.dataset}: {broken}")


def examine_alone(look: Callable[[Marked], Decision], marked: Marked) -> Decision:
    """Decide on an input whose worker processes died, in a process of its own.

    The kill may have been meant for a neighbour, or for the whole node; an input that ends this process too did it itself.
    """
    with Isolated() as isolated:
        try:
            return isolated.call(look, marked)
        except ProcessDied:
            return Decision(marked[0].source_path, marked[1], CRASHED, "the process that read it died, twice")


class _Memory:
    """Decisions in the corpus: one file of a finished pass, and batches of one under way."""

    def __init__(self, place: Place | None, spec_hash: str) -> None:
        self._place, self._spec_hash = place, spec_hash
        self._fresh: list[Decision] = []
        self._number = 0
        self._saved = time.monotonic()

    def recall(self) -> dict[str, Decision]:
        """What earlier passes decided under this spec. A crash is not remembered: the next build tries again."""
        if self._place is None:
            return {}
        batches = self._place.children(FRESH_DIR)
        self._number = len(batches)
        contents = [self._place.read_object(name) for name in (DECISIONS_FILE, *(f"{FRESH_DIR}/{name}" for name in batches))]
        rows = [row for content in contents if content.get("spec") == self._spec_hash for row in content["decisions"]]
        return {row["source_path"]: Decision(**row) for row in rows if row["code"] != CRASHED}

    def note(self, decision: Decision) -> None:
        """Take one in; from time to time they are written."""
        self._fresh.append(decision)
        if self._place is not None and time.monotonic() - self._saved > SAVE_EVERY_S:
            self._write(f"{FRESH_DIR}/{self._number:06d}.json", self._fresh)
            self._fresh, self._number, self._saved = [], self._number + 1, time.monotonic()

    def keep(self, decisions: dict[str, Decision]) -> None:
        """Write all decisions of a finished pass, in place of the batches."""
        if self._place is not None:
            self._write(DECISIONS_FILE, list(decisions.values()))
            self._place.remove(FRESH_DIR)

    def _write(self, name: str, decisions: Sequence[Decision]) -> None:
        assert self._place is not None
        content = {"spec": self._spec_hash, "decisions": [asdict(decision) for decision in decisions]}
        self._place.write(name, json.dumps(content).encode())
