import os
import platform
import socket
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from mri_fm.engine.environment import Environment, first_host, on_rank_0, read_environment, start_process_group
from mri_fm.errors import ResumableError, UserError
from tests.distributed import run_ranks


def do_once(rank: int, problem: Exception | None) -> tuple[str, int]:
    torch.distributed.init_process_group("gloo")
    calls: list[int] = []

    def work() -> str:
        calls.append(rank)
        if problem is not None:
            raise problem
        return "result"

    try:
        return on_rank_0(read_environment(), work), len(calls)
    except (UserError, ResumableError) as error:
        return f"{type(error).__name__}: {error}", len(calls)


@pytest.mark.parametrize(
    ("problem", "told"),
    [
        (None, "result"),
        (UserError("bad shard"), "UserError: bad shard"),
        (ResumableError("no answer"), "ResumableError: no answer"),
    ],
)
def test_all_ranks_learn_what_rank_0_found(problem, told):
    assert run_ranks(do_once, 2, problem) == [(told, 1), (told, 0)]


def join_alone(rank: int) -> int:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        del os.environ[name]
    read_environment()
    torch.distributed.init_process_group("gloo")
    return torch.distributed.get_world_size()


def test_without_a_launcher_a_run_does_not_need_the_usual_port():
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(OSError):  # somebody else holds it already, which is as good
            other.bind(("0.0.0.0", 29500))
            other.listen()
        assert run_ranks(join_alone, 1) == [1]


def free_a_tensor(rank: int, joins: bool) -> float:
    """How much of a tensor's memory is still this process' after it was freed."""
    if joins:
        start_process_group(read_environment())
    tensor = torch.ones(1 << 26)
    before = resident()
    size = tensor.nbytes
    del tensor
    return 1 - (before - resident()) / size


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library keeps or returns memory as it likes")
def test_ranks_on_the_cpu_keep_freed_memory():
    assert run_ranks(free_a_tensor, 1, False)[0] < 0.1
    assert run_ranks(free_a_tensor, 1, True)[0] > 0.9


SRUN = {
    "SLURM_JOB_ID": "1234567",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "17",
    "SLURM_STEP_NUM_TASKS": "20",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "2",
    "SLURM_STEP_TASKS_PER_NODE": "8(x2),4",
    "SLURM_STEP_NODELIST": "gpu[007-008,012]",
}
PLACE = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "LOCAL_SIZE", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture
def launched(monkeypatch):
    """Sets the variables of a launcher, all others being absent; what is set meanwhile is taken back."""

    def launch(variables: dict[str, str]) -> None:
        for name in (*PLACE, *(name for name in os.environ if name.startswith("SLURM_"))):
            monkeypatch.setenv(name, "")  # so that its end is noted, too
            monkeypatch.delenv(name)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return launch


def test_srun_names_the_place(launched):
    launched(SRUN)
    assert read_environment() == Environment(17, 20, 1, 4)
    assert (os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]) == ("gpu007", "24567")
    assert (os.environ["RANK"], os.environ["WORLD_SIZE"], os.environ["LOCAL_RANK"]) == ("17", "20", "1")


def test_a_launcher_inside_a_slurm_job_comes_before_slurm(launched):
    launched(SRUN | {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"})
    assert read_environment() == Environment(1, 2, 1, 2)


def test_torchruns_place_and_its_port_are_kept(launched):
    launched({"RANK": "9", "WORLD_SIZE": "16", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "8", "MASTER_PORT": "1234"})
    assert read_environment() == Environment(9, 16, 1, 8)
    assert os.environ["MASTER_PORT"] == "1234"


def test_a_batch_script_without_srun_is_one_rank(launched):
    launched({"SLURM_JOB_ID": "1", "SLURM_PROCID": "0", "SLURM_NTASKS": "16", "SLURM_LOCALID": "0"})
    assert read_environment() == Environment(0, 1, 0, 1)


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        (SRUN | {"SLURM_PROCID": ""}, "SLURM_PROCID is not set"),
        (SRUN | {"SLURM_STEP_NUM_TASKS": "many"}, "SLURM_STEP_NUM_TASKS=many is not a number"),
        (SRUN | {"SLURM_STEP_TASKS_PER_NODE": "8*2"}, "SLURM_STEP_TASKS_PER_NODE=8"),
        (SRUN | {"SLURM_NODEID": "3"}, "SLURM_NODEID=3"),
        ({"WORLD_SIZE": "8"}, "RANK is not"),
        ({"RANK": "8", "WORLD_SIZE": "8", "LOCAL_RANK": "0"}, "do not fit together"),
        ({"RANK": "-1", "WORLD_SIZE": "8", "LOCAL_RANK": "0"}, "RANK=-1"),
    ],
)
def test_a_place_that_cannot_be_is_refused(launched, variables, named):
    launched(variables)
    with pytest.raises(UserError, match=named):
        read_environment()


@pytest.mark.parametrize(
    ("nodes", "host"),
    [
        ("gpu1", "gpu1"),
        ("a-3,b-4", "a-3"),
        ("gpu[003-006,012],login1", "gpu003"),
        ("rack[1-2]n[01-08]", "rack1n01"),
        ("n[5,7-9].cluster.example", "n5.cluster.example"),
    ],
)
def test_the_first_host_of_a_node_list(nodes, host):
    assert first_host(nodes) == host
