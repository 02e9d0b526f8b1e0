"""A finished run on the small corpus, with untrained weights, and its export."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mri_fm.config import Config, load_config, to_yaml
from mri_fm.data.corpus import Corpus
from mri_fm.engine.identity import identity
from mri_fm.export.encoder import Encoder, load_encoder
from mri_fm.export.run import Request, export_run
from mri_fm.objectives import objective_class
from tests.checkpoints import write_checkpoint

STEPS = 3
WORDS = ["model.width=24", "model.depth=2", "model.heads=2", "model.predictor.width=24", "model.predictor.depth=1",
         "model.predictor.heads=2", "data.size=[16,32,32]", "model.drop_path=0.1", f"train.steps={STEPS}"]  # fmt: skip


def configure(folder: Path, corpus: Path, *words: str) -> Config:
    return load_config("jepa", [*WORDS, *words, f"data.corpus={corpus}", f"run.dir={folder}"])


def write_run(folder: Path, config: Config, step: int = STEPS) -> Path:
    """A run folder as training leaves it, at the weights of its first step."""
    depth, height, width = config.data.size
    objective = objective_class(config.objective.name)(config.objective, config.model, (depth, height, width), config.seed)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(to_yaml(config))
    lines = [{"step": s, "samples": 8 * s, "loss": 1.0 / s, "rankme": 5.0 + s} for s in range(1, step + 1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    content = Corpus.open(config.data.corpus, "size").info["checksums"]["manifest.parquet"]
    write_checkpoint(folder, step, objective.state_dict(), identity(config, content, "fp32"))
    return folder


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "jepa"
    return write_run(folder, configure(folder, corpus))


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory, run: Path) -> Path:
    """Only to be read."""
    return export_run(Request(run, tmp_path_factory.mktemp("exports") / "encoder"))


@pytest.fixture(scope="session")
def encoder(exported: Path) -> Encoder:
    return load_encoder(exported)
