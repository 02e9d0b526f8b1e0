"""Run independent tasks with a progress bar: in this process, or on a Dask cluster here or elsewhere."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from tqdm import tqdm

from mri_fm.errors import UserError

Argument = TypeVar("Argument")
Result = TypeVar("Result")
CONNECT_TIMEOUT_S = 30


class Runner(Protocol):
    """Calls a function on every item and returns the results in the items' order."""

    def __call__(
        self,
        function: Callable[[Argument], Result],
        items: Sequence[Argument],
        label: str,
        crashed: Callable[[Argument], Result] | None = None,
    ) -> list[Result]:
        """Run; an item that kills its worker process becomes `crashed(item)`, any other exception is raised here."""
        ...


@contextmanager
def task_runner(workers: int, scheduler: str | None = None) -> Iterator[Runner]:
    """A runner.

    Args:
        workers: processes on this machine; with 1 the tasks run in this one.
        scheduler: address of a Dask scheduler, instead of `workers`.

    Raises:
        UserError: no scheduler answers at the address.
    """
    if scheduler is None and workers == 1:
        yield run_here
        return
    import dask
    from distributed import Client, LocalCluster

    dask.config.set({"distributed.scheduler.allowed-failures": 1, "distributed.admin.tick.limit": "1h"})
    with _cluster(scheduler, lambda: LocalCluster(workers, threads_per_worker=1, dashboard_address=":0")) as address:
        try:
            client = Client(address, timeout=CONNECT_TIMEOUT_S)
        except (OSError, ValueError) as error:
            raise UserError(f"no Dask scheduler answers at {scheduler}: start one, or use --workers") from error
        with client:
            yield _on_client(client)


def run_here(
    function: Callable[[Argument], Result],
    items: Sequence[Argument],
    label: str,
    crashed: Callable[[Argument], Result] | None = None,
) -> list[Result]:
    """The plain twin of the Dask runner; here a crash of the function is a crash of the build."""
    return [function(item) for item in tqdm(items, label)]


@contextmanager
def _cluster(scheduler: str | None, start: Callable[[], Any]) -> Iterator[Any]:
    if scheduler is not None:
        yield scheduler
        return
    logging.getLogger("distributed").setLevel(logging.ERROR)
    with start() as cluster:
        yield cluster


def _on_client(client: Any) -> Runner:
    from distributed import as_completed
    from distributed.scheduler import KilledWorker

    def run(
        function: Callable[[Argument], Result],
        items: Sequence[Argument],
        label: str,
        crashed: Callable[[Argument], Result] | None = None,
    ) -> list[Result]:
        futures = client.map(function, items, pure=False)
        for _ in tqdm(as_completed(futures), label, total=len(items)):
            pass
        return [_result(future, item, KilledWorker, crashed) for future, item in zip(futures, items, strict=True)]

    return run


def _result(future: Any, item: Any, killed: type[Exception], crashed: Callable[[Any], Any] | None) -> Any:
    if future.status != "error" or not isinstance(future.exception(), killed):
        return future.result()
    if crashed is None:
        raise UserError("a worker process died, perhaps for want of memory: run the same command again with fewer --workers")
    return crashed(item)
