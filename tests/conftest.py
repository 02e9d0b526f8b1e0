"""One thread per process (reproducible sums, no thread pool that a fork would leave behind), and a real corpus to test on."""

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("DS_ACCELERATOR", "cpu")

import pytest
import torch
from hypothesis import settings

from tests.corpora import small_corpus

torch.set_num_threads(1)
settings.register_profile("untimed", deadline=None)  # no test asserts time: machines are shared
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A built corpus of eight small real volumes; its raw files lie beside it in raw/. Only to be read."""
    return small_corpus(tmp_path_factory.mktemp("small"))
