"""The volumes that all loaders read: raw scans, the corpus built from them, and an array of each payload.

Axes: X, Y, Z voxels of the raw file; Z, Y, X of the payload (RAS+).
"""

from __future__ import annotations

import json
import shutil
import tarfile
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import nibabel as nib
import numpy as np
import pyarrow.parquet as pq

from mri_fm.data import schema
from mri_fm.data.corpus import Corpus, Sample
from mri_fm.data.reader import ShardReader
from mri_fm.errors import UserError
from preprocessing.build import Spec, build
from preprocessing.rendering import Rendering, render
from preprocessing.rendering_anatomy import load_anatomy
from preprocessing.sample_data import find_colin27, find_heads

BENCH_FOLDER = Path("runs/bench")
VOLUMES = 6
SEED = 0
IN_PLANE_MM = (0.95, 1.05)
SLICE_MM = 1.0
SHARDS = 4  # webdataset gives each worker shards of its own


@dataclass(frozen=True)
class Scan:
    """One volume.

    Attributes:
        key: its name in the corpus.
        raw: the file it came from, whole field of view.
        array: .npy of the payload, int16 (z, y, x).
        box_XYZ: where the payload lies in the raw file, (start, stop) along each voxel axis.
        window: percentiles over the foreground, in units of the payload.
    """

    key: str
    raw: Path
    array: Path
    box_XYZ: tuple[tuple[int, int], ...]
    window: tuple[float, float]


def prepare(folder: Path, bids: Path | None, count: int) -> tuple[Path, list[Scan]]:
    """The corpus and its scans, made or completed under `folder`.

    Args:
        folder: scratch of the benchmarks; the scans lie in a folder of their own in it.
        bids: a data set whose T1w images are taken; None renders 1 mm scans of the heads in installed packages.
        count: how many.

    Raises:
        UserError: `bids` has no T1w image, or the build took none of the scans.
    """
    folder = folder.resolve() / f"{bids.name if bids else 'rendered'}-{count}"
    raw = folder / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    if bids is None:
        _render(raw, count)
    else:
        _copy(bids, raw, count)
    size = sum(path.stat().st_size for path in raw.iterdir())
    corpus_root = folder / "corpus"
    build(raw, corpus_root, Spec(val_fraction=0.0, shard_bytes=max(size // SHARDS, 1)))
    corpus = Corpus.open(corpus_root, verify="size")
    if not corpus.samples:
        raise UserError(f"none of the {count} scans in {raw} was accepted; {corpus_root}/report.html says why")
    return corpus_root, _scans(corpus_root, corpus, raw, folder / "arrays")


def _render(raw: Path, count: int) -> None:
    """Another anatomy, noise and bias for each number; the heads take turns."""
    heads = find_heads(find_colin27())
    names = [f"scan-{number:02d}_{heads[number % len(heads)].name}_T1w.nii.gz" for number in range(count)]
    for head in heads:
        wanted = [number for number in range(count) if head.name in names[number] and not (raw / names[number]).is_file()]
        anatomy = load_anatomy(head) if wanted else None
        for number in wanted:
            assert anatomy is not None
            image = render(anatomy, Rendering(number, head.name, "T1", 0, SLICE_MM), SEED, IN_PLANE_MM)
            nib.save(image, raw / names[number])


def _copy(bids: Path, raw: Path, count: int) -> None:
    found = list(islice(sorted(bids.rglob("*_T1w.nii*")), count))
    if not found:
        raise UserError(f"--bids {bids} has no file *_T1w.nii or *_T1w.nii.gz")
    for path in found:
        shutil.copyfile(path, raw / path.name)


def _scans(root: Path, corpus: Corpus, raw: Path, arrays: Path) -> list[Scan]:
    arrays.mkdir(exist_ok=True)
    ledger = pq.read_table(root / schema.LEDGER_FILE).to_pylist()
    sources = {row["key"]: raw / row["source_path"] for row in ledger if row["decision"] == "accepted"}
    affines = _payload_affines(root / schema.SHARD_DIR)
    reader = ShardReader(corpus.storage)
    scans = []
    for sample in corpus.samples:
        path = arrays / f"{sample.key}.npy"
        np.save(path, reader.read(sample))
        box_XYZ = _box(sources[sample.key], affines[sample.key], sample)
        scans.append(Scan(sample.key, sources[sample.key], path, box_XYZ, (sample.p01, sample.p99)))
    reader.close()
    return scans


def _payload_affines(shards: Path) -> dict[str, np.ndarray]:
    """Key → (x, y, z, 1) of the payload → mm, from the .json members."""
    affines = {}
    for shard in shards.glob("*.tar"):
        with tarfile.open(shard) as archive:
            for member in archive:
                key, _, extension = member.name.partition(".")
                content = archive.extractfile(member)
                if extension == "json" and content:
                    affines[key] = np.array(json.load(content)["affine"])
    return affines


def _box(raw: Path, payload_affine: np.ndarray, sample: Sample) -> tuple[tuple[int, int], ...]:
    """The payload's first and last voxel in the raw file's voxels; both grids are the same but for order and direction."""
    corners_2_4 = np.array([[0, 0, 0, 1], [*(length - 1 for length in reversed(sample.shape)), 1]], dtype=float)
    to_raw = np.linalg.inv(nib.load(raw).affine) @ payload_affine
    first_XYZ, last_XYZ = np.sort(np.rint((corners_2_4 @ to_raw.T)[:, :3]).astype(int), axis=0)
    return tuple((int(first), int(last) + 1) for first, last in zip(first_XYZ, last_XYZ, strict=True))
