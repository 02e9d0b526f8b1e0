"""What a codec costs and saves per volume, against raw in the same run, and where decoding is cheaper.

    python benchmarks/codecs.py [--rounds 5]

The 1 mm scans of `benchmarks/loader.py`, their payloads written with each codec by the shard writer. "reader": range read,
checksum and decoding as the loader's callable does it. "python_function": DALI's own reader of the shards, decoding inside the
graph, no checksum. Rounds interleave the codecs; CPU time of the process, median (range). Warm page cache; a network
is where size counts. Prints Markdown for `benchmarks/results/codecs.md`.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from loaders.scans import BENCH_FOLDER, VOLUMES, prepare
from nvidia.dali import fn, pipeline_def
from nvidia.dali import types as dali

from mri_fm.data.codecs import CODECS, Codec
from mri_fm.data.corpus import Corpus, Sample
from mri_fm.data.reader import ShardReader
from mri_fm.errors import run_main
from preprocessing.shards import Sample as Stored
from preprocessing.shards import write_shard


@dataclass(frozen=True)
class Packed:
    """The scans in one codec: where they lie, their MB, and CPU seconds that writing them took."""

    codec: Codec
    shard: Path
    samples: list[Sample]
    megabytes: float
    encoding_s: float


def pack(samples: list[Sample], codec: Codec, folder: Path) -> Packed:
    """Write the payloads of `samples` anew, into one shard."""
    reader, shard = ShardReader(), folder / f"{codec.name}.tar"
    volumes = [Stored(sample.key, reader.read(sample), {}) for sample in samples]
    start = time.process_time()
    payloads = write_shard(shard, volumes, codec)
    seconds = time.process_time() - start
    packed = [
        replace(sample, shard=shard, codec=codec.name, offset=p.offset, size=p.size, checksum=p.checksum)
        for sample, p in zip(samples, payloads, strict=True)
    ]
    return Packed(codec, shard, packed, sum(p.size for p in payloads) / 1e6, seconds)


def by_reader(packed: Packed) -> Callable[[], None]:
    """All volumes as the loader reads them."""
    reader = ShardReader()

    def read() -> None:
        for sample in packed.samples:
            reader.read(sample)

    return read


def by_graph(packed: Packed) -> Callable[[], None]:
    """All volumes by DALI's reader, decoded inside its graph."""

    def decode(payload: np.ndarray, shape: np.ndarray) -> np.ndarray:
        return packed.codec.decode(payload.tobytes(), shape)

    @pipeline_def(batch_size=1, num_threads=1, device_id=None, prefetch_queue_depth=1)
    def graph() -> object:
        payload, shape = fn.readers.webdataset(
            paths=[str(packed.shard)],
            index_paths=[str(packed.shard.with_suffix(".idx"))],
            ext=[packed.codec.extension, "shape"],
            dtypes=[dali.UINT8, dali.INT32],
        )
        return fn.python_function(payload, shape, function=decode)

    pipeline = graph()
    pipeline.build()

    def read() -> None:
        for _ in packed.samples:
            pipeline.run()

    return read


def cpu_ms(work: Callable[[], None], volumes: int) -> float:
    """CPU milliseconds of the process per volume."""
    start = time.process_time()
    work()
    return (time.process_time() - start) / volumes * 1e3


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    corpus, _ = prepare(BENCH_FOLDER, None, VOLUMES)
    samples = Corpus.open(corpus, "size").samples
    with tempfile.TemporaryDirectory() as folder:
        packed = [pack(samples, codec, Path(folder)) for codec in CODECS.values()]
        work = {(p.codec.name, how): make(p) for p in packed for how, make in (("reader", by_reader), ("graph", by_graph))}
        for read in work.values():
            read()
        taken: dict[tuple[str, str], list[float]] = {name: [] for name in work}
        for _ in range(rounds):
            for name, read in work.items():
                taken[name].append(cpu_ms(read, len(samples)))
    print(table(packed, taken, rounds))


def table(packed: list[Packed], taken: dict[tuple[str, str], list[float]], rounds: int) -> str:
    """The result as Markdown."""
    raw, count = packed[0], len(packed[0].samples)
    medians = {name: statistics.median(values) for name, values in taken.items()}
    machine = f"{datetime.date.today()}, {platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    head = f"{machine}; {count} volumes of {raw.megabytes / count:.1f} MB, {rounds} rounds."
    lines = [
        head,
        "",
        "| codec | size, raw = 1 | encode, CPU-ms | reader, CPU-ms | raw = 1 | python_function, CPU-ms | raw = 1 |",
        "|---|---|---|---|---|---|---|",
    ]
    for p in packed:
        cells = [p.codec.name, f"{p.megabytes / raw.megabytes:.2f}", f"{p.encoding_s / count * 1e3:.0f}"]
        for how in ("reader", "graph"):
            values = taken[p.codec.name, how]
            median = medians[p.codec.name, how]
            cells += [f"{median:.1f} ({min(values):.1f}–{max(values):.1f})", f"{median / medians[raw.codec.name, how]:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    run_main(main)
