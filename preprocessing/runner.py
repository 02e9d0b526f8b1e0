"""Run independent tasks with a progress bar: in this process, or on a Dask cluster here or elsewhere."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import islice
from typing import Any, Protocol, TypeVar

from tqdm import tqdm

from mri_fm.errors import ResumableError, UserError
from preprocessing.isolation import READING, Isolated, ProcessDied, start_server

Argument = TypeVar("Argument")
Result = TypeVar("Result")
CONNECT_TIMEOUT_S, OWN_WORKERS_TIMEOUT_S = 30, 300  # one of our own may start slowly, on a busy machine
DASK = {
    "distributed.scheduler.allowed-failures": 1,
    "distributed.admin.tick.limit": "1h",
    "distributed.worker.multiprocessing-method": "forkserver",  # seconds of imports less per worker
}
WRITING = (*READING, "webdataset", "distributed.nanny")  # what workers import
AHEAD, FEWEST_AHEAD = 4, 64  # tasks submitted per worker: a million of them at once would fill the scheduler


def one(_: Any) -> int:
    """The size of an item that is one volume."""
    return 1


def forget(_: Any) -> None:
    """What to do with a result that comes in, where nothing is to be done."""


class Runner(Protocol):
    """Calls a function on every item and returns the results in the items' order."""

    def __call__(
        self,
        function: Callable[[Argument], Result],
        items: Sequence[Argument],
        label: str,
        crashed: Callable[[Argument], Result] | None = None,
        size: Callable[[Argument], int] = one,
        arrived: Callable[[Result], None] = forget,
    ) -> list[Result]:
        """Run.

        Args:
            function: gives the same result however often and wherever it is called.
            items: one task each.
            label: of the progress bar.
            crashed: the result for an item whose worker processes die; without it such an item ends the run.
            size: volumes in an item, for the progress bar.
            arrived: is told every result as it comes in.

        Raises:
            ResumableError: a worker process died, or the scheduler.
            Exception: any other that the function raises.
        """
        ...


def prepare(workers: int, scheduler: str | None = None) -> None:
    """Start what `task_runner` forks its processes from: it imports what they need while this process imports its own."""
    if scheduler is None:
        start_server(READING if workers == 1 else WRITING)


@contextmanager
def task_runner(workers: int, scheduler: str | None = None) -> Iterator[Runner]:
    """A runner.

    Args:
        workers: processes on this machine; with 1 the tasks run in this one, but those that may crash in one beside it.
        scheduler: address of a Dask scheduler, instead of `workers`.

    Raises:
        UserError: no scheduler answers at the address.
    """
    if scheduler is None and workers == 1:
        yield run_here
        return
    import dask

    dask.config.set(DASK)
    prepare(workers, scheduler)
    from distributed import Client

    with _local_cluster(workers) if scheduler is None else nullcontext(scheduler) as address:
        try:
            client = Client(address, timeout=CONNECT_TIMEOUT_S)
        except (OSError, ValueError) as error:
            raise UserError(f"no Dask scheduler answers at {scheduler}: start one, or use --workers") from error
        with client:
            _wait_for_workers(client, scheduler)
            yield _on_client(client)


def _wait_for_workers(client: Any, scheduler: str | None) -> None:
    try:
        client.wait_for_workers(1, timeout=CONNECT_TIMEOUT_S if scheduler else OWN_WORKERS_TIMEOUT_S)
    except TimeoutError as error:
        raise UserError(
            f"no worker has joined {scheduler}: start some with `dask worker {scheduler}`"
            if scheduler
            else "no worker process has started on this machine: use --workers 1"
        ) from error


def run_here(
    function: Callable[[Argument], Result],
    items: Sequence[Argument],
    label: str,
    crashed: Callable[[Argument], Result] | None = None,
    size: Callable[[Argument], int] = one,
    arrived: Callable[[Result], None] = forget,
) -> list[Result]:
    """The plain twin of the Dask runner; what may crash, by `crashed`, runs in a process of its own."""
    results = []
    with _progress(items, label, size) as progress, Isolated() as isolated:
        for item in items:
            results.append(function(item) if crashed is None else _survived(isolated, function, item, crashed))
            arrived(results[-1])
            progress.update(size(item))
    return results


def _survived(
    isolated: Isolated, function: Callable[[Argument], Result], item: Argument, crashed: Callable[[Argument], Result]
) -> Result:
    try:
        return isolated.call(function, item)
    except ProcessDied:
        return crashed(item)


def _progress(items: Sequence[Argument], label: str, size: Callable[[Argument], int]) -> Any:
    """A bar with volumes per second and the time left."""
    return tqdm(desc=label, total=sum(map(size, items)), unit="volume")


@contextmanager
def _local_cluster(workers: int) -> Iterator[Any]:
    """Workers on this machine, with the environment of now and not of when the fork server was started."""
    from distributed import LocalCluster

    logging.getLogger("distributed").setLevel(logging.ERROR)
    with LocalCluster(workers, threads_per_worker=1, dashboard_address=":0", env=dict(os.environ)) as cluster:
        yield cluster


def _on_client(client: Any) -> Runner:
    from distributed import CancelledError, as_completed
    from distributed.comm import CommClosedError

    def run(
        function: Callable[[Argument], Result],
        items: Sequence[Argument],
        label: str,
        crashed: Callable[[Argument], Result] | None = None,
        size: Callable[[Argument], int] = one,
        arrived: Callable[[Result], None] = forget,
    ) -> list[Result]:
        results: dict[int, Result] = {}
        waiting = iter(enumerate(items))
        running: dict[Any, int] = {}

        def submit(count: int) -> list[Any]:
            started = {client.submit(function, item, pure=False): number for number, item in islice(waiting, count)}
            running.update(started)
            return list(started)

        try:
            finished = as_completed(submit(max(FEWEST_AHEAD, AHEAD * len(client.nthreads()))))
            with _progress(items, label, size) as progress:
                for future in finished:
                    number = running.pop(future)
                    results[number] = _result(future, items[number], crashed)
                    arrived(results[number])
                    progress.update(size(items[number]))
                    finished.update(submit(1))
        except (CancelledError, CommClosedError) as error:
            raise ResumableError(
                "the Dask scheduler is gone: start one again and give the same command, it continues"
            ) from error
        return [results[number] for number in range(len(items))]

    return run


def _result(future: Any, item: Any, crashed: Callable[[Any], Any] | None) -> Any:
    from distributed.scheduler import KilledWorker

    if future.status != "error" or not isinstance(future.exception(), KilledWorker):
        return future.result()
    if crashed is None:
        raise ResumableError(
            "worker processes died, perhaps for want of memory: give the same command again, with fewer --workers"
        )
    return crashed(item)
