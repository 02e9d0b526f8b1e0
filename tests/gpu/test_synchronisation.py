"""On a GPU: our part of a training step never makes the host wait for it; what DeepSpeed adds is counted."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path

import pytest
import torch

from mri_fm.config import load_config
from mri_fm.data.corpus import Corpus
from mri_fm.engine.ema import EMA
from mri_fm.engine.environment import Environment
from mri_fm.engine.feeding import build_loader
from mri_fm.objectives import OBJECTIVES
from tests.gpu.step_syncs import PARTS
from tests.objectives.variants import ALL, SCHEDULE, build, inputs

ROOT = Path(__file__).parents[2]
SMALL = """
model.width=48 model.depth=2 model.heads=3 data.size=[16,32,32] train.global_batch=4
model.predictor.width=48 model.predictor.depth=1 model.predictor.heads=3
model.decoder.width=48 model.decoder.depth=1 model.decoder.heads=3 run.dir=unused
""".split()

on_gpu = pytest.mark.skipif(not torch.cuda.device_count(), reason="needs a GPU")


@contextmanager
def no_waiting() -> Iterator[None]:
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("name", "variant"), ALL)
def test_forward_backward_and_ema_never_wait(name, variant, dtype):
    objective, given = build(name, variant).to("cuda", dtype), inputs(device="cuda")
    ema = EMA(objective.ema_pairs())

    def step() -> None:
        objective(given, SCHEDULE)[0].backward()
        if ema.teachers:
            ema.update(SCHEDULE["ema"], torch.zeros((), device="cuda"))

    step()  # what depends on the size alone is brought over once
    with no_waiting():
        step()


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_the_loader_never_waits(corpus, device):
    config = load_config("mae", [*SMALL, f"data.corpus={corpus}", f"data.device={device}"])
    with closing(build_loader(config, Corpus.open(corpus), Environment(0, 1, 0, 1))) as loader:
        list(islice(loader, 2))
        with no_waiting():
            batches = list(islice(loader, 3))
    assert all(batch.x_BCZYX.is_cuda and batch.spacing_B3.is_cuda for batch in batches)


def count_waits(objective: str, ds_config: str, corpus: Path, accelerator: str) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.gpu.step_syncs", "--objective", objective, "--ds_config", f"ds_configs/{ds_config}"]
    environment = os.environ | {"DS_ACCELERATOR": accelerator}
    out = subprocess.run(
        [*command, *SMALL, f"data.corpus={corpus}"], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    return json.loads(out.stdout.splitlines()[-1])


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("ds_config", ["zero1.json", "zero2.json", "zero3.json"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_in_the_engine_only_deepspeed_waits(corpus, objective, ds_config, capsys):
    waits = count_waits(objective, ds_config, corpus, "cuda")
    with capsys.disabled():
        print(f"\n{objective} {ds_config}: waits per step {waits}")
    assert waits["loader"] == waits["guard"] == waits["ema"] == 0
    if ds_config != "zero3.json":  # at stage 3 DeepSpeed gathers weights inside the forward pass
        assert waits["forward"] == 0


@pytest.mark.slow
def test_the_count_runs_where_there_is_no_gpu(corpus):
    assert count_waits("jepa_vcr", "zero1.json", corpus, "cpu") == dict.fromkeys(PARTS, 0.0)
