"""CPU time to read a .nii.gz, by step: inflating alone, with the standard library and with ISA-L, and what the build does.

    python benchmarks/reading.py [--rounds 7]

Real heads of about 1 mm from installed packages, each stored as int16 by nibabel's default compression. "inflate" reads the
whole stream and compares its checksum; "nibabel" is `np.asanyarray(nibabel.load(path).dataobj)`; "read" is `read_volume`;
"prepare" is all that the build's first pass does with an input, but for the hash. Rounds interleave the ways; CPU time of the
process, median (range), warm page cache. Prints Markdown for `benchmarks/results/reading.md`.
"""

from __future__ import annotations

import argparse
import datetime
import gzip
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import nibabel
import numpy as np

from mri_fm.errors import run_main
from mri_fm.volume.prepare import prepare_files
from mri_fm.volume.read import read_volume
from mri_fm.volume.voxels import GZIP, open_stream

HEADS = {
    "MNI152, skull-stripped": ("nilearn", "datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"),
    "group mean, whole head": ("pydeface", "data/mean_reg2mean.nii.gz"),
}
CHUNK = 1 << 20


def inflate_zlib(path: Path) -> None:
    """Inflate a .nii.gz by the standard library."""
    with gzip.open(path) as stream:
        while stream.read(CHUNK):
            pass


def inflate_isal(path: Path) -> None:
    """Inflate a .nii.gz by ISA-L, as the build does."""
    with open_stream(path, 0, GZIP) as stream:
        while stream.read(CHUNK):
            pass


def load_nibabel(path: Path) -> None:
    """Load the voxels the usual way."""
    np.asanyarray(nibabel.load(path).dataobj)


def prepare(path: Path) -> None:
    """All of the build's first pass but the hash."""
    prepare_files([path], series=False, max_spacing=6.5)


WAYS: dict[str, Callable[[Path], object]] = {
    "inflate, zlib": inflate_zlib,
    "inflate, ISA-L": inflate_isal,
    "nibabel": load_nibabel,
    "read": read_volume,
    "prepare": prepare,
}


def store(folder: Path) -> dict[str, Path]:
    """The heads as int16 .nii.gz."""
    paths = {}
    for number, (name, (package, file)) in enumerate(HEADS.items()):
        spec = find_spec(package)
        assert spec is not None, f"pip install 'mri-fm[samples]' brings {package}"
        assert spec.submodule_search_locations is not None
        image = nibabel.load(Path(spec.submodule_search_locations[0], file))
        paths[name] = folder / f"{number}.nii.gz"
        nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj).astype(np.int16), image.affine), paths[name])
    return paths


def measure(path: Path, rounds: int) -> dict[str, list[float]]:
    """CPU milliseconds of each way, `rounds` times, interleaved; one round before them is not counted."""
    times: dict[str, list[float]] = {name: [] for name in WAYS}
    for counted in range(rounds + 1):
        for name, way in WAYS.items():
            start = time.process_time()
            way(path)
            if counted:
                times[name].append(1e3 * (time.process_time() - start))
    return times


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    print(f"{datetime.date.today()}, {platform.machine()}, load {os.getloadavg()[0]:.1f}, {rounds} rounds\n")
    print("| head | MB, inflated | way | CPU-ms, median (range) | to inflating by zlib |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for head, path in store(Path(folder)).items():
            times = measure(path, rounds)
            base = statistics.median(times["inflate, zlib"])
            megabytes = 2e-6 * np.prod(nibabel.load(path).shape)
            for way, ms in times.items():
                median, span = statistics.median(ms), f"{min(ms):.0f} to {max(ms):.0f}"
                print(f"| {head} | {megabytes:.0f} | {way} | {median:.0f} ({span}) | {median / base:.2f} |")


if __name__ == "__main__":
    run_main(main)
