import os
import socket
from contextlib import suppress

import pytest
import torch

from mri_fm.engine.environment import on_rank_0, read_environment
from mri_fm.errors import UserError
from tests.distributed import run_ranks


def do_once(rank: int, fails: bool) -> tuple[str, int]:
    torch.distributed.init_process_group("gloo")
    calls: list[int] = []

    def work() -> str:
        calls.append(rank)
        if fails:
            raise UserError("bad shard")
        return "result"

    try:
        return on_rank_0(read_environment(), work), len(calls)
    except UserError as error:
        return f"refused: {error}", len(calls)


@pytest.mark.parametrize(("fails", "told"), [(False, "result"), (True, "refused: bad shard")])
def test_all_ranks_learn_what_rank_0_found(fails, told):
    assert run_ranks(do_once, 2, fails) == [(told, 1), (told, 0)]


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
