"""What each part of the augmentation costs on the CPU, and which form of the rotation is the cheapest.

    python benchmarks/augmentation.py           # 64 × 160 × 160 voxels from an int16 volume of 160 × 200 × 176
    python benchmarks/augmentation.py --rounds 3

The first table takes the geometry and the intensities through the DALI graph with one part switched on at a time, and what
torch adds behind it (noise, artefacts of k-space); the baseline is the graph with every part off (crop and resize, depth first,
clipping, z-score, the copy of the payload). The second compares forms of rotate + scale + crop + resize alone, each with its
copy of the payload: no rotation; the graph's (resize along the depth, then a warp of the plane with the slices as channels);
DALI's 3D warp; torch's grid_sample; a resize to the output's grid followed by a warp of its plane, which interpolates twice.
Forms are timed in turns in one run; times are CPU time of the process, medians over rounds.

Prints Markdown for `benchmarks/results/augmentation.md`.
"""

from __future__ import annotations

import argparse
import datetime
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from nvidia.dali import fn, pipeline_def
from nvidia.dali import types as dali
from torch.nn import functional

from mri_fm.config import ArtefactConfig, AugmentConfig
from mri_fm.data.artefacts import Artefacts, draw_artefacts
from mri_fm.data.noise import Scan, acquire_
from mri_fm.data.params import centre_params, draw_params
from mri_fm.data.pipeline import build_pipeline
from mri_fm.data.source import Status, graph_inputs

SHAPE, SIZE, SPACING = (160, 200, 176), (64, 160, 160), (1.0, 1.0, 1.0)
BATCH = 2
OFF = {"flip": 0, "scale": 0, "rotation": 0, "gamma": 0, "bias": 0, "blur": 0, "noise": 0}
PARTS = {
    "every part off (the baseline)": {},
    "flip": {"flip": 1},
    "scale": {"scale": 0.1},
    "rotation": {"rotation": 10},
    "gamma": {"gamma": 0.1},
    "bias": {"bias": 0.2},
    "blur, of every sample": {"blur": 1, "blur_probability": 1},
}
WARP_3D = [1.0, 0.1, 0, 5, -0.1, 1.0, 0, 25, 0, 0, 2.5, 0]  # x, y, z
WARP_2D = [1.0, 0.1, 5, -0.1, 1.0, 25]

Step = Callable[[], Any]


def volume() -> np.ndarray:
    """An int16 ball with texture, 0 outside."""
    rng = np.random.default_rng(0)
    radius = sum(
        ((np.arange(n) - n / 2) / (n / 2)).reshape([-1 if a == i else 1 for i in range(3)]) ** 2 for a, n in enumerate(SHAPE)
    )
    return np.where(radius < 0.9, rng.integers(200, 800, SHAPE), 0).astype(np.int16)


def graph_step(voxels: np.ndarray, augment: AugmentConfig) -> Step:
    """One run of the loader's own graph."""

    def inputs(info: Any) -> tuple[np.ndarray, ...]:
        params = draw_params(SHAPE, SIZE, augment, seed=0, position=info.idx_in_epoch, spacing=SPACING)
        return graph_inputs(voxels, params, (200.0, 800.0), Status(info.idx_in_epoch, 0, ()))

    return build_pipeline(inputs, device="cpu", statistics="foreground", batch_size=BATCH).run


def torch_step(artefacts: ArtefactConfig | None, noise: float = 0.0, rician: bool = False) -> Step:
    """Noise or artefacts on a batch, at new positions each time."""
    x_BCZYX, air_B = torch.randn(BATCH, 1, *SIZE), torch.zeros(BATCH)
    spacing = tuple(centre_params(SHAPE, SIZE, spacing=SPACING).input_spacing().tolist())
    positions = iter(range(10**6))

    def step() -> None:
        row_B = [next(positions) for _ in range(BATCH)]
        drawn = [draw_artefacts(artefacts, seed=0, position=row) if artefacts else Artefacts() for row in row_B]
        scans = [Scan(noise, rician, one, spacing) for one in drawn]
        acquire_(x_BCZYX.clone(), air_B, scans, torch.tensor(row_B), seed=0)

    return step


def dali_step(voxels: np.ndarray, form: str) -> Step:
    """The geometry in DALI: "none" (no rotation), "plane" (as the graph does it), "3D" warp or "twice" interpolated."""

    @pipeline_def(batch_size=BATCH, num_threads=1, device_id=None, prefetch_queue_depth=1)
    def graph() -> Any:
        source = fn.external_source(lambda _: voxels[..., None], batch=False, dtype=dali.INT16, ndim=4, layout="DHWC")
        linear = {"interp_type": dali.INTERP_LINEAR, "dtype": dali.FLOAT}
        if form == "3D":
            return fn.warp_affine(source, matrix=WARP_3D, size=list(SIZE), fill_value=0, **linear)
        if form == "plane":
            resized = fn.resize(source, size=[SIZE[0], *SHAPE[1:]], antialias=False, **linear)
        else:
            roi = {"roi_start": [0, 20, 8], "roi_end": [160, 180, 168]}
            resized = fn.resize(source, size=list(SIZE), antialias=False, **roi, **linear)
        if form == "none":
            return resized
        slices_last = fn.squeeze(fn.transpose(resized, perm=[1, 2, 0, 3], transpose_layout=False), axes=[3])
        plane = fn.reshape(slices_last, layout="HWC")
        warped = fn.warp_affine(plane, matrix=WARP_2D, size=list(SIZE[1:]), fill_value=0, **linear)
        return fn.transpose(warped, perm=[2, 0, 1])

    pipeline = graph()
    pipeline.build()
    return pipeline.run


def grid_sample_step(voxels: np.ndarray) -> Step:
    """A rotation in torch, from int16."""
    theta_B34 = torch.tensor([WARP_3D]).view(1, 3, 4) / 100

    def step() -> None:
        for _ in range(BATCH):
            source = torch.from_numpy(voxels).float()[None, None]
            functional.grid_sample(
                source, functional.affine_grid(theta_B34, [1, 1, *SIZE], align_corners=False), align_corners=False
            )

    return step


def cpu_ms(steps: dict[str, Step], rounds: int) -> dict[str, float]:
    """Median CPU-ms per volume of each step, timed in turns after one warm-up."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 1):
        for name, step in steps.items():
            start = time.process_time()
            step()
            if number:
                times[name].append((time.process_time() - start) * 1000 / BATCH)
    return {name: statistics.median(values) for name, values in times.items()}


def part_steps(voxels: np.ndarray) -> Iterator[tuple[str, Step]]:
    """The graph with one part on, then as by default and as in the paper; then what torch adds."""
    for name, options in PARTS.items():
        yield name, graph_step(voxels, AugmentConfig(**(OFF | options)))
    yield "the graph by default", graph_step(voxels, AugmentConfig())
    yield "the graph with `recipe=paper`", graph_step(voxels, AugmentConfig(rotation=10))
    yield "Gaussian noise (torch)", torch_step(None, noise=0.1)
    yield "Rician noise (torch)", torch_step(None, noise=0.1, rician=True)
    for name in ("motion", "ghosting", "spike", "anisotropy"):
        yield f"{name}, of every sample (torch)", torch_step(ArtefactConfig(**{name: 1}))


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    voxels = volume()
    parts = cpu_ms(dict(part_steps(voxels)), rounds)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    print(f"## {datetime.date.today()}, one thread, load {os.getloadavg()[0]:.0f}, commit {commit}\n")
    print(f"{SIZE} voxels from {SHAPE} int16, CPU-ms per volume, median of {rounds} rounds.\n")
    base = next(iter(parts.values()))
    print("| part | CPU-ms | more than the baseline |\n|---|---|---|")
    for name, value in parts.items():
        added = "" if "torch" in name or value == base else f"{value - base:+.0f}"
        print(f"| {name} | {value:.0f} | {added} |")
    forms = {
        "no rotation": dali_step(voxels, "none"),
        "ours: resize along the depth, warp of the plane": dali_step(voxels, "plane"),
        "DALI warp_affine in 3D": dali_step(voxels, "3D"),
        "torch affine_grid + grid_sample": grid_sample_step(voxels),
        "DALI resize, then warp of the plane: interpolates twice": dali_step(voxels, "twice"),
    }
    print("\n| rotation + scale + crop + resize | CPU-ms |\n|---|---|")
    for name, value in cpu_ms(forms, rounds).items():
        print(f"| {name} | {value:.0f} |")


if __name__ == "__main__":
    main()
