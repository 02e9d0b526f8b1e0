"""The Dask runner against its plain twin, and what a crash does."""

import functools
import os
import signal

import pytest
from distributed import LocalCluster

from mri_fm.errors import ResumableError, UserError
from preprocessing.runner import run_here, task_runner


def fail(value: int) -> None:
    raise UserError(f"no {value}")


def die(value: int) -> str:
    os._exit(3)


def die_at_3(value: int) -> str:
    if value == 3:
        os.kill(os.getpid(), signal.SIGSEGV)
    return str(value)


def describe(value: int) -> str:
    return f"lost {value}"


def test_dask_equals_the_plain_runner() -> None:
    square = functools.partial(pow, 2)
    with task_runner(1) as here:
        assert here is run_here
        assert here(square, range(9), "square", describe) == [2**number for number in range(9)]
        assert here(die_at_3, [1, 3, 4], "die", describe) == ["1", "lost 3", "4"]
        with pytest.raises(UserError, match="no 3"):
            here(fail, [3], "fail", describe)
    with task_runner(2) as run:
        assert run(square, range(9), "square") == run_here(square, range(9), "square")
        with pytest.raises(UserError, match="no 3"):
            run(fail, [3], "fail")
        assert run(die, [7], "die", describe) == ["lost 7"]
        with pytest.raises(ResumableError, match="fewer --workers"):
            run(die, [7], "die")


def test_a_scheduler_that_runs_elsewhere() -> None:
    cluster = LocalCluster(1, processes=False, dashboard_address=None, protocol="tcp")
    with cluster, task_runner(5, cluster.scheduler_address) as run:
        assert run(abs, [-1, 2], "abs") == [1, 2]


def test_no_scheduler_is_the_users_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("preprocessing.runner.CONNECT_TIMEOUT_S", 1)
    with pytest.raises(UserError, match="no Dask scheduler answers"), task_runner(2, "tcp://127.0.0.1:9"):
        pass
