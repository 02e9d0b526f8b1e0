"""Who this process is among the ranks, and the process group on GPUs (NCCL) or CPUs (gloo)."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch

from mri_fm.errors import ResumableError, UserError, exit_code

_RANK_0_HEAD_START_S = 5.0
_SLURM_FIRST_PORT, _SLURM_PORTS = 20000, 10000
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h
_PATIENCE = timedelta(days=7)  # a rank that is gone is missed by `Peers`, not by a collective
Result = TypeVar("Result")


@dataclass(frozen=True)
class Environment:
    """This process' place: global rank, number of ranks, rank on its node, ranks on its node."""

    rank: int
    world: int
    local_rank: int
    local_world: int

    @property
    def is_main(self) -> bool:
        """Whether this rank writes what is written once."""
        return self.rank == 0

    @property
    def device(self) -> torch.device:
        """This rank's GPU, or the CPU on a machine that has none."""
        # Unlike is_available, device_count leaves CUDA alone, so that the loader's workers can still be forked.
        return torch.device("cuda", self.local_rank) if torch.cuda.device_count() else torch.device("cpu")


def read_environment() -> Environment:
    """The place that the launcher wrote into the process' environment; one rank where there was no launcher.

    `deepspeed` and `torchrun` write RANK, WORLD_SIZE, LOCAL_RANK and MASTER_*; `srun` writes SLURM_*, from which those are then
    set, since DeepSpeed reads them. In a batch script, which Slurm numbers too, only what `srun` has started counts.

    Raises:
        UserError: one of these is missing beside the others, is not a number or does not fit the others.
    """
    if "WORLD_SIZE" not in os.environ and "SLURM_STEP_ID" in os.environ:
        os.environ.update(slurm_environment(os.environ))
    port = "29500" if "WORLD_SIZE" in os.environ else "0"  # alone: any free one, so that runs can stand side by side
    if "RANK" not in os.environ and os.environ.get("WORLD_SIZE", "1") != "1":
        raise UserError("WORLD_SIZE is set and RANK is not: start with deepspeed, torchrun or srun, or unset WORLD_SIZE")
    defaults = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    rank, world, local_rank = (_number(os.environ, name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    local_world = next(
        (_number(os.environ, name) for name in ("LOCAL_WORLD_SIZE", "LOCAL_SIZE") if os.environ.get(name)), world
    )
    if not (0 <= rank < world and 0 <= local_rank < local_world <= world):
        raise UserError(
            f"RANK={rank}, WORLD_SIZE={world}, LOCAL_RANK={local_rank}, LOCAL_WORLD_SIZE={local_world} do not fit together: "
            "start with deepspeed, torchrun or srun, which set them"
        )
    return Environment(rank, world, local_rank, local_world)


def slurm_environment(variables: Mapping[str, str]) -> dict[str, str]:
    """What `torchrun` would set, from what `srun` has set for one task.

    The first host of the step keeps the store at which ranks meet; its port follows from the job's number, below the range
    that systems give out by themselves, unless MASTER_PORT is set. See "OUTPUT ENVIRONMENT VARIABLES" of srun(1).

    Raises:
        UserError: a variable is missing or malformed.
    """
    names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_JOB_ID")
    rank, world, local_rank, node, job = (_number(variables, name) for name in names)
    tasks = _expand_counts(_required(variables, "SLURM_STEP_TASKS_PER_NODE"))
    if node >= len(tasks):
        raise UserError(f"SLURM_NODEID={node} is beyond SLURM_STEP_TASKS_PER_NODE={variables['SLURM_STEP_TASKS_PER_NODE']}")
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(world),
        "LOCAL_RANK": str(local_rank),
        "LOCAL_WORLD_SIZE": str(tasks[node]),
        "MASTER_ADDR": variables.get("MASTER_ADDR") or first_host(_required(variables, "SLURM_STEP_NODELIST")),
        "MASTER_PORT": variables.get("MASTER_PORT") or str(_SLURM_FIRST_PORT + job % _SLURM_PORTS),
    }


def first_host(nodes: str) -> str:
    """The first host of a Slurm node list such as `gpu[003-006,012],login1`."""
    return re.sub(r"\[(\d+)[^\]]*\]", r"\1", re.split(r",(?![^\[]*\])", nodes)[0])


def _expand_counts(counts: str) -> list[int]:
    """`8(x2),4` is 8, 8, 4."""
    expanded: list[int] = []
    for part in counts.split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        if match is None:
            raise UserError(f"SLURM_STEP_TASKS_PER_NODE={counts} is not of the form 8(x2),4")
        expanded += [int(match[1])] * int(match[2] or 1)
    return expanded


def _required(variables: Mapping[str, str], name: str) -> str:
    if not variables.get(name):
        raise UserError(
            f"{name} is not set, though other variables of its launcher are: start ranks with deepspeed, torchrun or srun"
        )
    return variables[name]


def _number(variables: Mapping[str, str], name: str) -> int:
    value = _required(variables, name)
    if not value.isdecimal():
        raise UserError(f"{name}={value} is not a number: start ranks with deepspeed, torchrun or srun, which set it")
    return int(value)


def start_process_group(environment: Environment) -> None:
    """Join the ranks. On the CPU nothing is compiled, cores are shared out among the node's ranks, freed memory is kept."""
    import deepspeed
    import deepspeed.ops
    from deepspeed.accelerator import get_accelerator

    if get_accelerator().device_name() == "cpu":
        # DeepSpeed would spend minutes compiling a shared-memory extension that only its inference uses.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        if "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(max(1, (os.cpu_count() or 1) // environment.local_world))
        keep_freed_memory()
    else:
        torch.cuda.set_device(environment.device)
    deepspeed.init_distributed(dist_backend=get_accelerator().communication_backend_name(), verbose=False)


def keep_freed_memory() -> None:
    """Have this process keep the memory of freed tensors, as torch does on a GPU; another C library than glibc stays as it is.

    By default glibc returns each large block to the kernel, which clears every page before it hands it out again. ZeRO takes
    buffers as large as its gradients at each step, so this would be a fifth of the step of a small model. See mallopt(3).
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)


def on_rank_0(environment: Environment, work: Callable[[], Result]) -> Result:
    """Do once, on rank 0, and give its (picklable) result to all ranks, which call together.

    Raises:
        UserError, ResumableError: the one that rank 0 met, on all ranks; else the others would find it gone in their next
            collective.
    """
    outcome: list[Any] = [None, None]
    if environment.is_main:
        try:
            outcome[0] = work()
        except (UserError, ResumableError) as error:
            outcome[1] = error
    torch.distributed.broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


def on_all_ranks(environment: Environment, work: Callable[[], None]) -> None:
    """Do on every rank, which call together and may take as long as they like.

    Raises:
        UserError, ResumableError: the one of the first rank that met one, on all ranks.
    """
    error: UserError | ResumableError | None = None
    try:
        work()
    except (UserError, ResumableError) as met:
        error = met
    errors: list[UserError | ResumableError | None] = [None] * environment.world
    patient: Any = torch.distributed.new_group(backend="gloo", timeout=_PATIENCE)
    torch.distributed.all_gather_object(errors, error, group=patient)
    for first in filter(None, errors):
        raise first


def exit_on_error(error: UserError | ResumableError) -> int:
    """Print the error once for the whole job and return the exit code.

    All ranks meet most errors together. The launcher ends every rank when the first one exits, so the others give rank 0
    the time to speak; a rank that is still alive after that met the error alone and speaks itself.
    """
    if int(os.environ.get("RANK", "0")) != 0:
        time.sleep(_RANK_0_HEAD_START_S)
    print(f"error: {error}", file=sys.stderr, flush=True)
    return exit_code(error)
