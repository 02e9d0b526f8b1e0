import gc
import os

import pytest
import torch.distributed as dist
from nvidia.dali import fn, pipeline_def

from tests.distributed import run_ranks


def test_results_come_in_rank_order_from_a_real_group():
    def work(rank: int, factor: int) -> tuple[int, int, str]:
        dist.init_process_group("gloo")
        gathered = [None, None]
        dist.all_gather_object(gathered, rank * factor)
        return rank, sum(gathered), os.environ["WORLD_SIZE"]

    assert run_ranks(work, 2, 5) == [(0, 5, "2"), (1, 5, "2")]


def test_a_failure_names_the_rank_and_shows_its_traceback():
    def work(rank: int) -> None:
        if rank == 1:
            raise KeyError("lost")

    with pytest.raises(RuntimeError, match=r"rank 1 raised:[\s\S]*KeyError: 'lost'"):
        run_ranks(work, 2)


def test_a_dead_rank_is_noticed():
    with pytest.raises(RuntimeError, match="died"):
        run_ranks(lambda rank: os._exit(9), 1)


def test_a_hanging_rank_is_killed():
    import time

    with pytest.raises(RuntimeError, match="did not finish"):
        run_ranks(lambda rank: time.sleep(60), 1, timeout=0.2)


@pipeline_def(batch_size=1, num_threads=2, device_id=None, exec_dynamic=True)
def constant():
    return fn.constant(fdata=1.0)


def collect(rank: int) -> int:
    gc.collect()
    return rank


def test_a_pipeline_that_nobody_holds_does_not_hang_a_rank():
    pipeline = constant()
    pipeline.build()
    pipeline.run()
    pipeline.itself = pipeline  # a cycle: it lives until it is collected
    gc.disable()
    try:
        del pipeline
        assert run_ranks(collect, 2) == [0, 1]
    finally:
        gc.enable()
