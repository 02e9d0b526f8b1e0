"""A corpus of seven tiny volumes, written with the project's own shard writer."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash

from mri_fm.data import schema
from mri_fm.data.codecs import RAW, Codec
from preprocessing.shards import Sample, write_shard

SHAPES = [(20, 26, 22), (6, 30, 25), (25, 7, 30), (30, 25, 7), (24, 24, 24), (22, 20, 25), (23, 23, 24)]
PER_SHARD = 3


def volume(number: int, shape: tuple[int, int, int]) -> np.ndarray:
    """A textured ellipsoid on a background of 0, int16 (z, y, x)."""
    z, y, x = np.meshgrid(*[np.linspace(-1, 1, length) for length in shape], indexing="ij")
    texture = 800 + 300 * np.sin(5 * z + number) + 200 * x + np.random.default_rng(number).normal(0, 60, shape)
    return np.where(z**2 + y**2 + x**2 < 0.9, texture.clip(1, 32767), 0).astype(np.int16)


def manifest_row(number: int, voxels: np.ndarray) -> dict:
    inside = voxels[voxels > 0]
    return {
        "key": f"vol{number:03d}",
        "dataset": "ellipsoids",
        "subject": f"s{number}",
        "session": "1",
        "contrast": ("T1", "T2")[number % 2],
        "split": "train",
        "shape": list(voxels.shape),
        "spacing": [1.5, 0.7, 1.0 + 0.1 * number],
        "orientation": "RAS",
        "dtype": "int16",
        "p01": np.percentile(inside, 1),
        "p99": np.percentile(inside, 99),
        "crop_p01": np.percentile(voxels, 1),
        "crop_p99": np.percentile(voxels, 99),
        "foreground_fraction": (voxels > 0).mean(),
        "content_hash": f"{number:032x}",
    }


def write_corpus(root: Path, codec: Codec = RAW) -> None:
    (root / schema.SHARD_DIR).mkdir(parents=True)
    volumes = [volume(number, shape) for number, shape in enumerate(SHAPES)]
    rows = []
    for first in range(0, len(volumes), PER_SHARD):
        shard = root / schema.SHARD_DIR / f"train-{first // PER_SHARD:06d}.tar"
        numbers = range(first, min(first + PER_SHARD, len(volumes)))
        payloads = write_shard(shard, [Sample(f"vol{n:03d}", volumes[n], {}) for n in numbers], codec)
        for n, payload in zip(numbers, payloads, strict=True):
            place = {"shard": shard.name, "offset": payload.offset, "size": payload.size, "checksum": payload.checksum}
            place["codec"] = codec.name
            rows.append(manifest_row(n, volumes[n]) | place)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema.MANIFEST), root / schema.MANIFEST_FILE)
    files = [root / schema.MANIFEST_FILE, *sorted((root / schema.SHARD_DIR).iterdir())]
    checksums = {path.relative_to(root).as_posix(): xxhash.xxh3_64_hexdigest(path.read_bytes()) for path in files}
    (root / schema.CORPUS_FILE).write_text(json.dumps({"format_version": schema.FORMAT_VERSION, "checksums": checksums}))


@pytest.fixture(scope="session")
def ellipsoids(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus; not to be changed."""
    root = tmp_path_factory.mktemp("ellipsoids") / "corpus"
    write_corpus(root)
    return root


@pytest.fixture
def own_ellipsoids(ellipsoids: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(ellipsoids, tmp_path / "corpus"))


@pytest.fixture(scope="session")
def sessions(ellipsoids: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus with T1 and T2 of each session of s0, s1 and s2, and T1 alone of s3; open it with verify="size"."""
    root = Path(shutil.copytree(ellipsoids, tmp_path_factory.mktemp("sessions") / "corpus"))
    table = pq.read_table(root / schema.MANIFEST_FILE)
    subjects = pa.array([f"s{number // 2}" for number in range(len(table))])
    column = table.column_names.index("subject")
    pq.write_table(table.set_column(column, schema.MANIFEST.field("subject"), subjects), root / schema.MANIFEST_FILE)
    return root
