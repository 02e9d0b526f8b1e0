"""Run a function on several real ranks, forked from this process after its imports."""

from __future__ import annotations

import gc
import multiprocessing
import os
import random
import socket
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any

_FIRST_PORT, _PORTS, _TRIES = 12_000, 20_000, 200
_claims: list[socket.socket] = []


def run_ranks(fn: Callable[..., Any], world: int, *args: Any, timeout: float = 600.0) -> list[Any]:
    """Call `fn(rank, *args)` on `world` forked processes and return their results in rank order.

    RANK, LOCAL_RANK, WORLD_SIZE, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT (a free port) are set as a launcher sets them;
    `fn` itself initialises the process group. `fn` may be a closure; its result must be picklable.

    Raises:
        RuntimeError: a rank raised (its traceback is in the message), died, or did not finish within `timeout` seconds. The
            other ranks are killed.
    """
    gc.collect()  # here, where their threads live: a DALI pipeline that a fork collects waits for threads it does not have
    context = multiprocessing.get_context("fork")
    port = free_port()
    processes, pipes = [], []
    for rank in range(world):
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_child, args=(fn, rank, world, port, sender, args))
        process.start()
        sender.close()
        processes.append(process)
        pipes.append(receiver)
    try:
        return _collect(pipes, time.monotonic() + timeout)
    finally:
        for process in processes:
            process.kill()
            process.join()


def free_port() -> int:
    """A TCP port that nobody listens on, and that neither another test nor the kernel will take before this process ends.

    It lies below 32768, from where on Linux gives ports to connections, and a name that only one process of a machine can hold
    stands for it: an abstract address of a Unix socket, see unix(7).
    """
    for port in random.SystemRandom().sample(range(_FIRST_PORT, _FIRST_PORT + _PORTS), _TRIES):
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0mri-fm-test-port-{port}")
            with socket.socket() as server:
                server.bind(("", port))
        except OSError:
            claim.close()
            continue
        _claims.append(claim)
        return port
    raise RuntimeError("no free port")


def _child(fn: Callable[..., Any], rank: int, world: int, port: int, sender: Connection, args: tuple[Any, ...]) -> None:
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), LOCAL_WORLD_SIZE=str(world),
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), OMP_NUM_THREADS="1", GLOO_SOCKET_IFNAME="lo",
    )  # fmt: skip
    gc.freeze()  # what was inherited is not this process's to collect
    import torch

    torch.set_num_threads(1)
    try:
        sender.send((True, fn(rank, *args)))
    except BaseException:
        sender.send((False, traceback.format_exc()))


def _collect(pipes: list[Connection], deadline: float) -> list[Any]:
    results: dict[int, Any] = {}
    while len(results) < len(pipes):
        missing = [rank for rank in range(len(pipes)) if rank not in results]
        ready = wait([pipes[rank] for rank in missing], timeout=max(0.0, deadline - time.monotonic()))
        if not ready:
            raise RuntimeError(f"ranks {missing} did not finish in time")
        for rank in missing:
            if pipes[rank] in ready:
                results[rank] = _receive(rank, pipes[rank])
    return [results[rank] for rank in range(len(pipes))]


def _receive(rank: int, pipe: Connection) -> Any:
    try:
        succeeded, value = pipe.recv()
    except EOFError:
        raise RuntimeError(f"rank {rank} died") from None
    if not succeeded:
        raise RuntimeError(f"rank {rank} raised:\n{value}")
    return value
