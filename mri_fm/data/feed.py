"""A DALI pipeline that may fail: its workers, the watch over it, and what happens after a failure.

A pipeline that has failed may give lost, repeated or corrupted samples when it is asked again (seen with DALI 2.4), so it is
dropped with everything it has prefetched. If its workers were the reason, another one without workers takes over at the first
sample that was not yet given: the same samples follow, whoever reads them. That also works once CUDA is initialised, after
which DALI refuses to fork. A second failure ends the rank.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from mri_fm.data.source import SampleSource
from mri_fm.data.watchdog import Watchdog
from mri_fm.data.workers import Activity, Workers
from mri_fm.errors import ResumableError

_log = logging.getLogger(__name__)
_PATIENCE_S = 2.0  # for the death of a worker to show after DALI has noticed it


class Feed:
    """Runs of one pipeline after another, as if it were one that does not fail."""

    def __init__(
        self,
        source: SampleSource,
        build: Callable[[int], Any],
        *,
        batch_size: int,
        workers: int,
        timeout_s: float,
    ) -> None:
        """Build the pipeline and fork its workers.

        Args:
            source: the callable that the pipeline calls.
            build: gives the pipeline over `source` for a number of workers, which it forks.
            batch_size: samples of one run.
            workers: processes that read, 0: this one does.
            timeout_s: how long a read may block before the workers, then the rank are ended.
        """
        self._source, self._build, self._batch_size = source, build, batch_size
        self._timeout_s = timeout_s
        self._given = 0
        self._pipeline: Any = None
        self._watchdog: Watchdog | None = None
        self._start(workers)

    def seek(self, number: int) -> None:
        """Begin at the `number`-th sample; only before the first run."""
        if self._given:
            raise RuntimeError("a feed that has given samples cannot start elsewhere")
        self._source.activity.first = number

    def run(self) -> Any:
        """The outputs of the next run, valid until the run after it.

        Raises:
            ResumableError: the pipeline failed before.
        """
        if self._pipeline is None:
            raise ResumableError("the loader has failed and is not asked again; the same command resumes")
        try:
            outputs = self._ask()
        except Exception as error:
            outputs = self._ask_another(error)
        self._given += 1
        return outputs

    def close(self) -> None:
        """Drop the pipeline with what it has prefetched, and end its workers."""
        if self._watchdog is not None:
            self._watchdog.close()
        self._workers.discard()
        self._pipeline = self._watchdog = None
        self._source.reader.close()

    def _start(self, workers: int, first: int = 0) -> None:
        activity = self._source.activity = Activity(workers)
        activity.first = first
        with activity.forking():
            self._pipeline = self._build(workers)
        self._workers = Workers(self._pipeline)

    def _ask(self) -> Any:
        if self._watchdog is None:  # not before the first run: no thread may be there when the workers are forked
            self._watchdog = Watchdog(self._source.activity, self._workers, self._timeout_s, self._source.describe)
        problem = self._watchdog.problem()
        if problem is not None:
            raise ResumableError(problem)
        with self._watchdog.waiting():
            return self._pipeline.run()

    def _ask_another(self, error: Exception) -> Any:
        """After an error: a pipeline without workers, if they were its cause."""
        problem = self._watchdog.problem(_PATIENCE_S) if self._workers.processes and self._watchdog else None
        first = self._source.activity.first + self._given * self._batch_size
        self.close()
        if problem is None:
            raise error
        _log.warning("%s: going on without workers", problem)
        self._start(0, first)
        self._given = 0
        try:
            return self._ask()
        except Exception:
            self.close()
            raise
