"""The same start for every test, on any machine: one thread, known random numbers, nothing of this machine's set-up.

One thread per process gives reproducible sums, and leaves no pool of threads behind that a fork would miss.
"""

import os
from collections.abc import Iterator
from pathlib import Path

os.environ.update(
    OMP_NUM_THREADS="1",
    TORCHINDUCTOR_COMPILE_THREADS="1",  # forked ranks would wait for the threads of a pool that stayed in the parent
    NO_PROXY="127.0.0.1,localhost",  # where the servers of tests are
    no_proxy="127.0.0.1,localhost",
    WANDB__SERVICE_WAIT="300",  # seconds for its process to start on a busy machine
)
os.environ.setdefault("DS_ACCELERATOR", "cpu")

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from matplotlib import font_manager  # noqa: F401  lists the machine's fonts, once, before a test waits for a picture

from tests.corpora import small_corpus

PLACE = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "LOCAL_SIZE", "MASTER_ADDR", "MASTER_PORT")
for name in [name for name in os.environ if name in PLACE or name.startswith("SLURM_")]:
    del os.environ[name]  # of a job in which the tests themselves run
for name in ("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_MODE", "WANDB_DIR", "WANDB_RUN_ID", "WANDB_DISABLED"):
    os.environ.pop(name, None)
torch.set_num_threads(1)
# Nothing depends on time, since machines are shared, or on luck: `--hypothesis-profile=explore` draws other examples each time.
UNTIMED = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("explore", **UNTIMED)
settings.register_profile("repeatable", **UNTIMED, derandomize=True, database=None)
settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def same_start() -> Iterator[None]:
    """Tests draw the same numbers in any order, and what one sets in the environment is gone for the next."""
    torch.manual_seed(0)
    np.random.seed(0)
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A built corpus of eight small real volumes; its raw files lie beside it in raw/. Only to be read."""
    return small_corpus(tmp_path_factory.mktemp("small"))
