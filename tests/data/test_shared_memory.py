import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mri_fm.config import DataConfig
from mri_fm.data.corpus import Corpus
from mri_fm.data.loader import TrainLoader
from mri_fm.data.shared_memory import SHARED_MEMORY, check_shared_memory, needed_bytes
from mri_fm.errors import EXIT_USER_ERROR, UserError

ROOT = Path(__file__).parents[2]


def test_what_is_needed_bounds_what_dali_takes(ellipsoids: Path) -> None:
    corpus = Corpus.open(ellipsoids)
    for workers, batch in ((1, 4), (2, 4), (3, 4)):
        config = DataConfig(corpus="unused", size=[8, 16, 16], workers=workers)
        layout = {"seed": 1, "global_batch": batch, "accumulation": 1, "rank": 0, "world": 1, "device": torch.device("cpu")}
        source = TrainLoader(corpus, corpus.samples, config, **layout)
        for _ in range(4):
            next(source)
        taken = sum(source._batches._feed._pipeline.external_source_shm_statistics()["capacities"])
        source.close()
        # DALI gives a slot of 1 MiB at least to each part of a batch
        assert taken <= max(needed_bytes((s.shape for s in corpus.samples), batch_size=batch, prefetch=2), 3 * workers << 20)


def test_it_grows_with_the_largest_volume_the_batch_and_the_queue() -> None:
    volume = 2 * 100**3
    assert needed_bytes([(10, 10, 10), (100, 100, 100)], batch_size=4, prefetch=2) == pytest.approx(4 * 4 * volume, rel=0.04)
    assert needed_bytes([(100, 100, 100)], batch_size=1, prefetch=1) == pytest.approx(3 * volume, rel=0.04)


def test_too_little_names_the_size_and_the_remedy() -> None:
    state = os.statvfs(SHARED_MEMORY)
    free = state.f_bavail * state.f_frsize
    check_shared_memory(free // 4, local_ranks=2)
    with pytest.raises(UserError, match=r"need \d+ MiB of shared memory on this node and /dev/shm has \d+ MiB: enlarge it"):
        check_shared_memory(free, local_ranks=2)


def test_a_small_shared_memory_is_noticed_before_the_first_batch(ellipsoids: Path) -> None:
    """In a mount namespace of its own, where that is allowed, /dev/shm is as small as a container's may be."""
    alone = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=1m tmpfs /dev/shm && exec "$@"', "sh"]
    if shutil.which("unshare") is None or subprocess.run([*alone, "true"], capture_output=True).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    command = [*alone, sys.executable, "-m", "mri_fm.data.inspect", "--corpus", str(ellipsoids), "data.size=[8,16,16]"]
    command.append("model.patch=[8,8,8]")
    assert subprocess.run(command, cwd=ROOT, capture_output=True).returncode == 0
    done = subprocess.run([*command, "data.workers=2"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == EXIT_USER_ERROR
    (line,) = done.stderr.splitlines()
    assert re.match(r"error: data.workers need \d+ MiB of shared memory on this node and /dev/shm has 1 MiB", line)
