"""Embeddings on disk: made once, by one rank or many, found again by what they were made of.

    RUN/features/{hash of encoder, corpus, volumes and input}/
      meta.json       what it is of, the volumes' keys, and shape and checksum of every array
      pooled.npy …    one row per volume

Axes: V volumes.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from torch import Tensor, nn

from mri_fm.engine.environment import Environment, on_all_ranks
from mri_fm.errors import UserError
from mri_fm.evaluate.embed import READOUTS, embed
from mri_fm.evaluate.progress import progress
from mri_fm.evaluate.volumes import Volumes
from mri_fm.models.vit import VisionTransformer

META = "meta.json"
INPUT = "input"
FORMAT = 1
Say = Callable[[str], None]


@dataclass(frozen=True)
class Embedded:
    """Rows of the volumes asked for: of encoders by name and readout, of their input by name (see `mri_fm.evaluate.embed`)."""

    encoders: dict[str, dict[str, Tensor]]
    inputs: dict[str, Tensor]


@dataclass(frozen=True)
class Kept:
    """What is kept of each volume: readouts of its tokens (see `embed`), and for fine-tuning the whole input."""

    readouts: tuple[str, ...] = READOUTS
    whole_input: bool = False


def embed_cached(
    encoders: Mapping[str, VisionTransformer], volumes: Volumes, kept: Kept, *, folder: Path, environment: Environment, say: Say
) -> Embedded:
    """What is not in the cache yet is embedded, each volume once over all ranks, which call together.

    Args:
        encoders: frozen networks by name.
        volumes: to be embedded.
        kept: what is wanted of them.
        folder: of the cache, on storage that all ranks share.
        environment: this rank's place.
        say: told what is found and what is made.

    Returns:
        On rank 0 the rows of the volumes, on others nothing.

    Raises:
        UserError: a cached array was cut or altered, an embedding is not finite, or a volume cannot be read.
    """
    identities = {name: _identity(encoder, volumes, kept.readouts) for name, encoder in encoders.items()}
    identities[INPUT] = _identity(None, volumes, ("whole",) if kept.whole_input else ())
    found = {name: (folder / identity).is_dir() for name, identity in identities.items()}
    missing = [name for name, present in found.items() if not present]
    if environment.is_main:
        held = [name for name in identities if found[name]]
        if held:
            say(f"cache hit: {', '.join(held)} of {len(volumes)} volumes in {folder}")
        if missing:
            say(f"embedding {len(volumes)} volumes: {', '.join(missing)}, {environment.world} ranks")
    if missing:
        chosen = {name: encoders[name] for name in missing if name != INPUT}
        _make(chosen, identities, volumes, kept, folder, environment)
    if not environment.is_main:
        return Embedded({}, {})
    read = {name: _read(folder / identity, volumes.keys) for name, identity in identities.items()}
    return Embedded({name: read[name] for name in encoders}, read[INPUT])


def _identity(encoder: nn.Module | None, volumes: Volumes, readouts: Sequence[str]) -> str:
    """A hash over all that decides the rows: weights, payloads, how they become input, what is kept."""
    digest = xxhash.xxh3_128()
    if encoder is not None:
        for key, tensor in encoder.state_dict().items():
            digest.update(key.encode() + str(tuple(tensor.shape)).encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        digest.update(repr(encoder).encode())  # heads, norms and positions, which weights do not tell
    data, samples = volumes.data, volumes.samples
    rule: dict[str, Any] = {"format": FORMAT, "size": list(data.size), "statistics": data.statistics, "reader": data.reader}
    rule |= {"evaluation": asdict(data.evaluation), "readouts": list(readouts), "input": encoder is None}
    rule["volumes"] = [(s.key, s.checksum, s.p01, s.p99, s.crop_p01, s.crop_p99, s.spacing) for s in samples]
    rule["spec"] = volumes.corpus.info.get("spec_hash", "")
    digest.update(json.dumps(rule, sort_keys=True).encode())
    return digest.hexdigest()


def _make(
    encoders: Mapping[str, VisionTransformer],
    identities: Mapping[str, str],
    volumes: Volumes,
    kept: Kept,
    folder: Path,
    environment: Environment,
) -> None:
    """Every rank writes its part; rank 0 puts them together and publishes each folder by a rename."""
    keys = volumes.keys
    parts = folder / f"parts-{xxhash.xxh3_64_hexdigest(''.join(sorted(identities.values())).encode())}"

    def work() -> None:
        own = len(range(environment.rank, len(volumes), environment.world))
        readouts, whole = kept.readouts, kept.whole_input
        count = math.ceil(own / volumes.batch_size)
        batches = progress(volumes.batches(environment), "embedding", count, unit="batch", shown=environment.is_main)
        rows = embed(encoders, batches, keys, environment.device, readouts=readouts, whole_input=whole)
        _write_part(parts / f"rank-{environment.rank:05d}", rows, own)

    def publish() -> None:
        if environment.is_main:
            merged = _merge(parts, environment.world, len(keys))
            for name in (*encoders, INPUT):
                if not (folder / identities[name]).is_dir():  # two encoders may be the same
                    _publish(merged, name, folder / identities[name], keys)
            shutil.rmtree(parts)

    if environment.world == 1:
        work()
        publish()
    else:
        on_all_ranks(environment, work)
        on_all_ranks(environment, publish)


def _write_part(folder: Path, rows: Iterable[tuple[list[int], dict[str, Tensor]]], own: int) -> None:
    """One array per name, filled batch by batch, and the places of its rows among all volumes."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    arrays: dict[str, np.ndarray] = {}
    places: list[int] = []
    for positions, part in rows:
        for name, tensor in part.items():
            if name not in arrays:
                file = folder / f"{name.replace('/', '+')}.npy"
                shape = (own, *tensor.shape[1:])
                arrays[name] = np.lib.format.open_memmap(file, mode="w+", dtype=tensor.numpy().dtype, shape=shape)
            arrays[name][len(places) : len(places) + len(positions)] = tensor.numpy()
        places += positions
    for array in arrays.values():
        array.flush()  # type: ignore[attr-defined]
    np.save(folder / "places.npy", np.array(places, dtype=np.int64))


def _merge(parts: Path, world: int, volumes: int) -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
    """By name, the arrays of all ranks with their places; every volume exactly once.

    Raises:
        UserError: some volume came twice or never.
    """
    arrays: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    seen = []
    for rank in range(world):
        folder = parts / f"rank-{rank:05d}"
        places = np.load(folder / "places.npy")
        seen += places.tolist()
        for file in sorted(folder.glob("*+*.npy")):
            arrays.setdefault(file.stem.replace("+", "/"), []).append((places, np.load(file, mmap_mode="r")))
    if sorted(seen) != list(range(volumes)):
        raise UserError(f"{len(set(seen))} of {volumes} labelled volumes were embedded, {len(seen)} times; remove {parts}")
    return arrays


def _publish(merged: Mapping[str, list[tuple[np.ndarray, np.ndarray]]], name: str, target: Path, keys: Sequence[str]) -> None:
    """Write one encoder's arrays in the order of the keys, then what they are, then rename."""
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    arrays = {}
    for full, pieces in merged.items():
        owner, _, readout = full.rpartition("/")
        if owner != name:
            continue
        file = partial / f"{readout}.npy"
        shape = (len(keys), *pieces[0][1].shape[1:])
        array = np.lib.format.open_memmap(file, mode="w+", dtype=pieces[0][1].dtype, shape=shape)
        for places, rows in pieces:
            array[places] = rows
        array.flush()
        arrays[readout] = _checksum(file)
    (partial / META).write_text(json.dumps({"name": name, "keys": list(keys), "arrays": arrays}, indent=1))
    partial.rename(target)


def _read(folder: Path, keys: Sequence[str]) -> dict[str, Tensor]:
    """The arrays of a folder, memory-mapped, after a look at their checksums."""
    advice = "remove the folder, it is made again"
    try:
        meta = json.loads((folder / META).read_bytes())
        intact = meta["keys"] == list(keys) and all(_checksum(folder / f"{n}.npy") == c for n, c in meta["arrays"].items())
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder} was cut or altered ({type(error).__name__}): {advice}") from error
    if not intact:
        raise UserError(f"{folder} was cut or altered (its checksums differ): {advice}")
    return {name: torch.from_numpy(np.load(folder / f"{name}.npy", mmap_mode="c")) for name in meta["arrays"]}


def _checksum(file: Path) -> str:
    digest = xxhash.xxh3_64()
    with file.open("rb") as stream:
        while chunk := stream.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()
