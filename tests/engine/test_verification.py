"""All ranks read the shards, each its share, and stop together."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed as dist

from mri_fm.config import DataConfig
from mri_fm.data.corpus import Corpus
from mri_fm.engine.environment import Environment, on_all_ranks, read_environment
from mri_fm.engine.verification import open_corpus
from mri_fm.errors import EXIT_RESUMABLE, ResumableError, UserError
from tests.distributed import run_ranks


def open_on_rank(rank: int, corpus: Path, verify: str) -> tuple[list[str], str | None]:
    """The shards that this rank has read, and the error it met."""
    dist.init_process_group("gloo")
    read: list[str] = []
    plain = Corpus.verify_shard

    def spy(self: Corpus, name: str, *rest: object) -> None:
        read.append(name)
        plain(self, name, *rest)

    Corpus.verify_shard = spy  # in this forked rank alone
    try:
        open_corpus(DataConfig(corpus=str(corpus), verify=verify), read_environment())
    except UserError as error:
        return read, str(error)
    return read, None


@pytest.mark.parametrize("world", [1, 2, 3])
def test_each_shard_is_read_by_one_rank(corpus: Path, world: int) -> None:
    results = run_ranks(open_on_rank, world, corpus, "full")
    assert [error for _, error in results] == [None] * world
    shares = [read for read, _ in results]
    assert sorted(name for share in shares for name in share) == sorted(path.name for path in (corpus / "shards").glob("*.tar"))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_size_reads_none(corpus: Path) -> None:
    assert run_ranks(open_on_rank, 2, corpus, "size") == [([], None)] * 2


@pytest.mark.parametrize("number", [0, 1])
def test_what_one_rank_finds_stops_all(corpus: Path, tmp_path: Path, number: int) -> None:
    altered = Path(shutil.copytree(corpus, tmp_path / "altered"))
    shard = sorted((altered / "shards").glob("*.tar"))[number]
    shard.write_bytes(shard.read_bytes().replace(b"\x01", b"\x02", 1))
    errors = {error for _, error in run_ranks(open_on_rank, 2, altered, "full")}
    (message,) = errors
    assert message is not None
    assert shard.name in message
    assert "was changed" in message


@pytest.mark.parametrize("kind", [UserError, ResumableError])
def test_the_first_ranks_error_is_every_ranks(kind: type[Exception]) -> None:
    def work(rank: int) -> str:
        dist.init_process_group("gloo")

        def fail() -> None:
            if rank:
                raise kind(f"rank {rank}")

        with pytest.raises(kind) as caught:
            on_all_ranks(Environment(rank, 3, rank, 3), fail)
        return str(caught.value)

    assert run_ranks(work, 3) == ["rank 1"] * 3


BLOCKED = """
import os, sys
from mri_fm.config import DataConfig
from mri_fm.data import storage
from mri_fm.engine.environment import Environment
from mri_fm.engine import verification

read = storage.LocalStorage.read
def block(self, path, offset, size):
    if path.name.endswith(".tar"):
        os.read(os.pipe()[0], 1)
    return read(self, path, offset, size)
storage.LocalStorage.read = block
corpus = verification.Corpus.open(sys.argv[1], verify="size")
verification._verify_share(corpus, Environment(0, 1, 0, 1), 1.0)
"""


def test_a_read_that_blocks_ends_the_rank(corpus: Path) -> None:
    done = subprocess.run([sys.executable, "-c", BLOCKED, str(corpus)], capture_output=True, text=True, timeout=600)
    assert done.returncode == EXIT_RESUMABLE, done.stderr
    assert "has been reading shard train-000000.tar for" in done.stderr
