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
