from dataclasses import replace

import torch

from mri_fm.config import load_config
from mri_fm.data.corpus import Corpus
from mri_fm.engine.environment import read_environment, start_process_group
from mri_fm.observe.fixed import FixedBatch, choose_samples
from tests.distributed import run_ranks

WORLD, COUNT = 3, 5


def test_every_data_set_and_contrast_has_its_turn(corpus):
    (first, *rest) = Corpus.open(corpus, verify="size").samples
    samples = [replace(first, row=row, dataset=name) for row, name in enumerate("aaaaaabbc")]
    assert [(s.row, s.dataset) for s in choose_samples(samples, 4)] == [(0, "a"), (1, "a"), (6, "b"), (8, "c")]
    assert choose_samples(samples, 99) == samples
    assert len(rest) == 7


def gather_rank(rank: int, corpus) -> tuple[list[str], list[list[float]], list[int]]:
    environment = read_environment()
    start_process_group(environment)
    opened = Corpus.open(corpus, verify="size")
    config = load_config("mae", [f"data.corpus={corpus}", "run.dir=R", "data.size=[8,16,16]"])
    fixed = FixedBatch(opened, opened.samples[:COUNT], config.data, environment)
    rows, passes = [], []
    for batch in fixed.batches():
        rows.append(torch.stack([batch.positions_B.double(), batch.x_BCZYX.double().abs().mean(dim=(1, 2, 3, 4))], dim=1))
        passes.append(len(batch.positions_B))
    return [sample.key for sample in fixed.samples], fixed.gather(torch.cat(rows)).tolist(), passes


def test_ranks_share_the_volumes_and_gather_them_in_order(corpus):
    alone = run_ranks(gather_rank, 1, corpus)[0]
    shared = run_ranks(gather_rank, WORLD, corpus)
    assert [row[0] for row in alone[1]] == list(range(COUNT))
    assert len({row[1] for row in alone[1]}) == COUNT
    for keys, rows, passes in shared:
        assert keys == alone[0]
        assert rows == alone[1]
        assert passes == [2]  # as many on each rank, though there are 5 volumes for 3 ranks
