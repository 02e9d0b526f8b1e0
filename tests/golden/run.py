"""The golden run: 20 steps of each objective on one rank and one thread, on a corpus cut from the MNI152 template.

`python -m tests.golden.run` writes golden.json anew. Do that only for a change that is meant to move numbers, and say in the
commit which moved and why.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import deepspeed  # noqa: F401  before the fork
import nibabel
import numpy as np
import torch

from mri_fm.config import load_config
from mri_fm.data.inspect import inspect_lines
from mri_fm.engine.environment import read_environment, start_process_group
from mri_fm.engine.loop import run_training
from mri_fm.engine.setup import DEFAULT_DS_CONFIG, read_ds_config
from mri_fm.objectives import OBJECTIVES
from mri_fm.observe.recorder import read_metrics
from preprocessing.build import Spec, build
from tests.corpora import template
from tests.distributed import run_ranks

GOLDEN = Path(__file__).with_name("golden.json")
STEPS = 20
STRIDES = [(5, 5, 5), (4, 4, 4), (6, 6, 6), (4, 4, 6), (6, 5, 4), (5, 6, 5)]
WORDS = f"""
model.width=48 model.depth=2 model.heads=3 data.size=[16,32,32] train.global_batch=4 train.steps={STEPS} log_every=1 seed=7
model.predictor.width=48 model.predictor.depth=1 model.decoder.width=48 model.decoder.depth=1 model.predictor.heads=3
model.decoder.heads=3 wandb.mode=disabled observe.every=0 optim.warmup=0.2
""".split()


def golden_corpus(folder: Path) -> Path:
    """Six volumes by striding alone, so that no interpolation can round differently on another machine."""
    (folder / "raw").mkdir(parents=True)
    image = template()
    array = np.asarray(image.dataobj)
    for number, (x, y, z) in enumerate(STRIDES):
        small = np.ascontiguousarray(array[::x, ::y, ::z])
        nibabel.save(
            nibabel.Nifti1Image(small, image.affine @ np.diag([x, y, z, 1])), folder / "raw" / f"scan{number}_T1w.nii.gz"
        )
    build(folder / "raw", folder / "corpus", Spec(val_fraction=0.0))
    return folder / "corpus"


def compute(folder: Path) -> dict[str, Any]:
    """Run everything under `folder` and return what golden.json records."""
    corpus = golden_corpus(folder)
    words = [*WORDS, f"data.corpus={corpus}"]
    stream = [
        json.loads(line) for line in inspect_lines(load_config("mae", [*words, "run.dir=R"]), world=1, start=0, steps=STEPS)
    ]
    return {
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "keys": [line["keys"] for line in stream],
        "checksums": [line["checksums"] for line in stream],
        "losses": {name: _losses(name, [*words, f"run.dir={folder / name}"]) for name in OBJECTIVES},
    }


def _losses(objective: str, words: list[str]) -> list[float]:
    config = load_config(objective, words)
    run_ranks(_train, 1, objective, words)
    return [record["loss"] for record in read_metrics(Path(config.run.dir))]


def _train(rank: int, objective: str, words: list[str]) -> int:
    environment = read_environment()
    start_process_group(environment)
    return run_training(load_config(objective, words), read_ds_config(DEFAULT_DS_CONFIG), environment)


def main() -> int:
    """Write golden.json."""
    with tempfile.TemporaryDirectory() as folder:
        GOLDEN.write_text(json.dumps(compute(Path(folder)), indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
