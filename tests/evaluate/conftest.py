"""A small corpus whose variants carry a planted lesion, and run folders with untrained weights."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash

from mri_fm.config import Config, load_config, to_yaml
from mri_fm.data import schema
from mri_fm.objectives import objective_class
from preprocessing.shards import Sample, write_shard
from tests.checkpoints import write_checkpoint

VARIANTS, TEMPLATES = 24, 2
SHAPE = (18, 36, 36)
WORDS = ["model.width=24", "model.depth=1", "model.heads=2", "model.predictor.width=24", "model.predictor.depth=1",
         "model.predictor.heads=2", "data.size=[16,32,32]", "wandb.mode=disabled"]  # fmt: skip


def head(index: int, lesion: bool) -> np.ndarray:
    """A noisy ellipsoid; the lesion is a dark ball around its centre."""
    rng = np.random.default_rng(index)
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij"))
    radius = np.sqrt((grid**2).sum(axis=0))
    voxels = 3000 + 400 * np.sin(6 * grid[1] + index) + rng.normal(0, 150, SHAPE)
    voxels[radius < 0.45] -= 2500 if lesion else 0
    return np.where(radius < 0.95, voxels.clip(1, 32767), 0).astype(np.int16)


def row(index: int, voxels: np.ndarray) -> dict[str, Any]:
    """The manifest's row; bases alternate, the label alternates within each base, templates have none."""
    variant = index < VARIANTS
    bright = voxels[voxels != 0]
    low, high = np.percentile(bright, [1, 99])
    crop_low, crop_high = np.percentile(voxels, [1, 99])
    base = f"base{index // 2 % 3}"
    required = {
        "key": f"v{index:03d}", "dataset": "made", "subject": base, "session": "1",
        "contrast": ("T1", "T2", "FLAIR")[index % 3],
        "split": "train" if index % 4 else "test", "shape": list(voxels.shape), "spacing": [2.0, 1.0, 1.0],
        "orientation": "RAS", "dtype": "int16", "p01": low, "p99": high, "crop_p01": crop_low, "crop_p99": crop_high,
        "foreground_fraction": len(bright) / voxels.size, "content_hash": f"{index:032x}", "shard": "train-000000.tar",
    }  # fmt: skip
    found = {
        "kind": "variant" if variant else "template", "base": base, "rendering": f"r{index // 2}" if variant else None,
        "atrophy": index % 2 if variant else None, "site": "one", "age": 20.5 + index,
    }  # fmt: skip
    return required | found


@pytest.fixture(scope="session")
def labelled_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("labelled") / "corpus"
    (root / schema.SHARD_DIR).mkdir(parents=True)
    volumes = [head(i, lesion=i % 2 == 1) for i in range(VARIANTS + TEMPLATES)]
    samples = [Sample(f"v{i:03d}", voxels, {}) for i, voxels in enumerate(volumes)]
    shard = root / schema.SHARD_DIR / "train-000000.tar"
    payloads = write_shard(shard, samples)
    places = [{k: v for k, v in dataclasses.asdict(payload).items() if k != "key"} for payload in payloads]
    rows = [row(i, voxels) | place for i, (voxels, place) in enumerate(zip(volumes, places, strict=True))]
    extra = [("kind", pa.string()), ("base", pa.string()), ("rendering", pa.string()), ("atrophy", pa.int8()),
             ("site", pa.string()), ("age", pa.float64())]  # fmt: skip
    manifest = root / schema.MANIFEST_FILE
    pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema([*schema.MANIFEST, *extra])), manifest)
    sums = {str(path.relative_to(root)): xxhash.xxh3_64_hexdigest(path.read_bytes()) for path in (manifest, shard)}
    info = {"format_version": schema.FORMAT_VERSION, "counts": {}, "spec": {}, "spec_hash": "", "checksums": sums}
    (root / schema.CORPUS_FILE).write_text(json.dumps(info))
    return root


def write_run(folder: Path, config: Config, *, weight_scale: float = 1.0) -> Path:
    """A run folder at step 0; every weight is multiplied by `weight_scale`."""
    size = (config.data.size[0], config.data.size[1], config.data.size[2])
    objective = objective_class(config.objective.name)(config.objective, config.model, size, config.seed)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(to_yaml(config))
    state = {name: tensor * weight_scale for name, tensor in objective.state_dict().items()}
    write_checkpoint(folder, 0, state)
    return folder


@pytest.fixture(scope="session")
def jepa_run(tmp_path_factory: pytest.TempPathFactory, labelled_corpus: Path) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "jepa"
    return write_run(folder, load_config("jepa", [*WORDS, f"data.corpus={labelled_corpus}", f"run.dir={folder}"]))


@pytest.fixture(scope="session")
def diverged_run(tmp_path_factory: pytest.TempPathFactory, labelled_corpus: Path) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "diverged"
    config = load_config("jepa", [*WORDS, f"data.corpus={labelled_corpus}", f"run.dir={folder}"])
    return write_run(folder, config, weight_scale=float("nan"))
