"""What a corpus costs: CPU time per volume beside inflating it and compressing its Zarr chunks, a worker's memory, workers.

    python benchmarks/build.py [--volumes 24] [--workers 1 2]

The two things that any build must do are measured in the same run: inflating the `.nii.gz` by Python's gzip, and compressing
the chunks of all levels of the pyramid by the archive's codec, as Zarr stores them: whole ones, filled up at the edges. It is
checked that the bytes are the archive's. Volumes are nilearn's MNI152 head at 1 mm with noise of its own.
"""

from __future__ import annotations

import argparse
import ctypes
import gzip
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import nibabel
import numpy as np
from numcodecs import blosc

from mri_fm.volume.prepare import prepare_files
from preprocessing.archive import CHUNK, pyramid

ROOT = Path(__file__).parents[1]
REPEATS = 3
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--volumes", type=int, default=24)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--memory-of", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        print(json.dumps(memory(arguments.memory_of)))
        return
    with tempfile.TemporaryDirectory(prefix="bench-build-") as folder:
        raw = make_raw(Path(folder, "raw"), arguments.volumes)
        cost(raw, Path(folder))
        peak(raw)
        scaling(raw, Path(folder), arguments.workers)


def make_raw(raw: Path, volumes: int) -> Path:
    """Heads of 197 × 233 × 189 voxels as int16, scaled to a scanner's range, with noise in brain and air."""
    import nilearn

    raw.mkdir()
    image = nibabel.load(Path(nilearn.__file__).parent / "datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz")
    head = np.asarray(image.dataobj, np.float32) * 8
    for seed in range(volumes):
        rng = np.random.default_rng(seed)
        noisy = np.hypot(head + rng.normal(0, 25, head.shape), rng.normal(0, 25, head.shape))
        nibabel.save(nibabel.Nifti1Image(noisy.astype(np.int16), image.affine), raw / f"head{seed}_T1.nii.gz")
    return raw


def cpu_of(action: Callable[[], object]) -> float:
    """Median CPU seconds, of all threads."""
    times = []
    for _ in range(REPEATS):
        start = time.process_time()
        action()
        times.append(time.process_time() - start)
    return statistics.median(times)


def cost(raw: Path, folder: Path) -> None:
    """CPU seconds per volume of the two that cannot be avoided, and of both passes of the build."""
    path = sorted(raw.glob("*.nii.gz"))[0]
    content = path.read_bytes()
    prepared = prepare_files([path], series=False, max_spacing=6.5)
    inflate = cpu_of(lambda: gzip.decompress(content))
    levels = [level for level, _ in pyramid(prepared.canonical.voxels, prepared.canonical.spacing)]
    compress = cpu_of(lambda: compress_chunks(levels))
    passes = cpu_of(lambda: both_passes(path, folder / "cost"))
    stored = sum(file.stat().st_size for file in (folder / "cost").glob("volumes.zarr/*/*/c/**/*") if file.is_file())
    assert 0 <= stored - compress_chunks(levels) < 1e-3 * stored, "what is compressed is not what the archive holds"
    print(f"{path.name}: {prepared.canonical.voxels.shape}, {len(content) / 1e6:.1f} MB as .nii.gz")
    print(f"inflate (gzip)          {inflate:.2f} s CPU")
    print(f"compress all chunks     {compress:.2f} s CPU")
    print(f"build, both passes      {passes:.2f} s CPU, ratio {passes / (inflate + compress):.2f} (target 2.5)")


def compress_chunks(levels: list[np.ndarray]) -> int:
    """Bytes of all chunks of all levels, compressed as the archive does."""
    codec = blosc.Blosc("zstd", clevel=5, shuffle=blosc.SHUFFLE)
    total = 0
    for level in levels:
        size = [min(CHUNK, n) for n in level.shape]
        for start in itertools.product(*(range(0, n, step) for n, step in zip(level.shape, size, strict=True))):
            part = level[tuple(slice(first, first + step) for first, step in zip(start, size, strict=True))]
            chunk = np.zeros(size, np.int16)
            chunk[tuple(map(slice, part.shape))] = part
            total += len(codec.encode(chunk))
    return total


def both_passes(path: Path, out: Path) -> None:
    """Decide on one input and write its shard and image, as the workers do."""
    from mri_fm.volume.discover import Input
    from preprocessing.tasks import Member, ShardTask, examine, write_task

    shutil.rmtree(out, ignore_errors=True)
    item = Input(path.name, (path.name,))
    decision = examine(str(path.parent), 6.5, False, (item, "mark"))
    member = Member(item, decision.content_hash[:16], decision.content_hash, "T1", "bench", decision.crop_hash, decision.level)
    write_task(ShardTask(str(path.parent), str(out), "train-000000", (member,), 6.5, False, "raw", "spec"))


def memory(path: Path) -> dict[str, float]:
    """MB of a fresh process: after its imports, at its peak, and the volume as float32."""
    voxels = int(np.prod(nibabel.load(path).shape))
    small = path.with_name("small.nii.gz")
    with tempfile.TemporaryDirectory() as folder:
        both_passes(small, Path(folder, "warm"))
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again from what is resident
        idle = _status("VmRSS")
        both_passes(path, Path(folder, "out"))
        peaked = _status("VmHWM")
    return {"idle": idle, "peak": peaked, "volume": voxels * 4 / 2**20}


def _status(name: str) -> float:
    """A line of /proc/self/status in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(name))) / 1024


def peak(raw: Path) -> None:
    """A worker's memory in a process of its own, for integers and for floating point."""
    image = nibabel.load(sorted(raw.glob("*.nii.gz"))[0])
    array = np.asarray(image.dataobj)
    for name, kind in (("int16", np.int16), ("float32", np.float32)):
        with tempfile.TemporaryDirectory() as folder:
            whole = np.tile(array, (2, 1, 1)).astype(kind)
            nibabel.save(nibabel.Nifti1Image(whole, image.affine), Path(folder, "large.nii.gz"))
            tiny = nibabel.Nifti1Image(array[::4, ::4, ::4], image.affine @ np.diag([4, 4, 4, 1]))
            nibabel.save(tiny, Path(folder, "small.nii.gz"))
            command = [sys.executable, __file__, "--memory-of", Path(folder, "large.nii.gz")]
            about = json.loads(subprocess.run(command, capture_output=True, check=True, cwd=ROOT).stdout)
        growth = (about["peak"] - about["idle"]) / about["volume"]
        print(f"worker's memory, {name:8}{about['idle']:.0f} MB idle, {about['peak']:.0f} MB at its peak, "
              f"grown by {growth:.2f} × the volume as float32 ({about['volume']:.0f} MB; target 4)")  # fmt: skip


def scaling(raw: Path, folder: Path, workers: list[int]) -> None:
    """Wall and CPU seconds of whole builds, and of builds of one volume, which are little but the start; and who else ran."""
    volumes = len(list(raw.glob("*.nii.gz")))
    one = folder / "one"
    one.mkdir()
    shutil.copy(sorted(raw.glob("*.nii.gz"))[0], one)
    whole: dict[int, float] = {}
    for count in workers:
        start, _, _ = timed_build(one, folder / f"one{count}", count)
        whole[count], cpu, others = timed_build(raw, folder / f"corpus{count}", count)
        ratio, rate = whole[workers[0]] / whole[count], volumes / whole[count]
        print(f"{count} workers: {whole[count]:.1f} s wall, {cpu:.1f} s CPU for {volumes} volumes ({rate:.2f} "
              f"volumes/s, {ratio:.2f} × {workers[0]} worker); {start:.1f} s wall for one volume; "
              f"others used {others:.1f} s CPU meanwhile")  # fmt: skip


def timed_build(raw: Path, out: Path, workers: int) -> tuple[float, float, float]:
    """Wall and CPU seconds of the command with all its processes, and CPU seconds of all others on this machine meanwhile."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    command = [sys.executable, "-m", "preprocessing.build_shards", "--raw", raw, "--out", out, "--workers", str(workers)]
    before, start, busy = os.times(), time.monotonic(), machine_busy()
    subprocess.run([*command, "--shard-bytes", "50000000"], check=True, capture_output=True, cwd=ROOT)
    wall, busy = time.monotonic() - start, machine_busy() - busy
    with suppress(ChildProcessError):
        while True:
            os.wait()
    after = os.times()
    cpu = sum(after[2:4]) - sum(before[2:4])
    return wall, cpu, busy - cpu


def machine_busy() -> float:
    """CPU seconds that this machine has spent on processes since it started (proc(5): user, nice, system of /proc/stat)."""
    return sum(map(int, Path("/proc/stat").read_text().split()[1:4])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
