"""The DALI graph: payload and parameters in, augmented z-scored volume out. Nothing in it draws random numbers.

Layouts: DHWC with one channel. The source's D, H, W are z, y, x of RAS+; the output's are depth, height, width.
`mri_fm.data.twin` is the same arithmetic in torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import nvidia.dali.math as dmath
from nvidia.dali import fn, pipeline_def
from nvidia.dali import types as dali

LEAST_DEVIATION = 1e-6
FOREGROUND = 0.5  # stored units: foreground is 1 or more, and rounding leaves traces above 0 beside it

INPUTS: tuple[tuple[str, Any, int, str], ...] = (
    ("voxels", dali.INT16, 4, "DHWC"),
    ("roi_start", dali.FLOAT, 1, ""),
    ("roi_end", dali.FLOAT, 1, ""),
    ("output", dali.FLOAT, 1, ""),
    ("size", dali.FLOAT, 1, ""),
    ("depth_axis", dali.INT32, 0, ""),
    ("window", dali.FLOAT, 1, ""),
    ("gamma", dali.FLOAT, 0, ""),
    ("bias", dali.FLOAT, 4, "DHWC"),
    ("noise", dali.FLOAT, 0, ""),
    ("spacing", dali.FLOAT, 1, ""),
    ("status", dali.INT64, 1, ""),
)
"""Name, type, rank and layout of what the source feeds, in order."""


def build_pipeline(
    source: Callable[[Any], tuple[Any, ...]],
    *,
    device: str,
    statistics: str,
    batch_size: int,
    threads: int = 1,
    device_id: int | None = None,
    prefetch: int = 1,
    workers: int = 0,
    sample_bytes: int | None = None,
) -> Any:
    """Build the pipeline of one rank.

    Args:
        source: called with a SampleInfo; returns `INPUTS` and never raises.
        device: "cpu" or "gpu": where everything after the read happens.
        statistics: z-score over the "foreground" (voxels above half a stored unit after the resize) or the whole "volume".
        batch_size: samples of one run.
        threads: CPU threads of DALI.
        device_id: the GPU, if device is "gpu".
        prefetch: batches that are worked on ahead.
        workers: processes that call the source, forked here, so before CUDA is initialised; 0: this process calls it.
        sample_bytes: what the source returns for the largest sample, so that the shared memory of workers need not grow.

    Returns:
        An `nvidia.dali.Pipeline`, built by its first run; each run gives volumes float32 (depth, height, width, 1), their
        foreground uint8 of the same shape, the level that air has in them (1, 1, 1, 1), the standard deviation of the noise
        still to be added, mm between voxels of the output (3,), and the status rows.
    """
    graph = _graph(
        source,
        device,
        statistics,
        workers > 0,
        sample_bytes if workers else None,
        batch_size=batch_size,
        num_threads=threads,
        device_id=device_id if device == "gpu" else None,
        prefetch_queue_depth=prefetch,
        py_num_workers=max(workers, 1),
        py_start_method="fork",
    )
    graph.start_py_workers()
    return graph


@pipeline_def(enable_conditionals=True)
def _graph(source: Any, device: str, statistics: str, parallel: bool, sample_bytes: int | None) -> Any:
    inputs = fn.external_source(
        source,
        num_outputs=len(INPUTS),
        batch=False,
        parallel=parallel,
        bytes_per_sample_hint=sample_bytes,
        dtype=[kind for _, kind, _, _ in INPUTS],
        ndim=[rank for _, _, rank, _ in INPUTS],
        layout=[layout for _, _, _, layout in INPUTS],
    )
    voxels, roi_start, roi_end, output, size, depth_axis, window, gamma, bias, noise, spacing, status = inputs
    if device == "gpu":
        voxels, window, gamma, bias = voxels.gpu(), window.gpu(), gamma.gpu(), bias.gpu()
    resized = fn.resize(
        voxels,
        size=output,
        roi_start=roi_start,
        roi_end=roi_end,
        interp_type=dali.INTERP_LINEAR,
        antialias=False,
        dtype=dali.FLOAT,
    )
    volume = _depth_first(resized, depth_axis)
    field = fn.resize(bias, size=size, interp_type=dali.INTERP_LINEAR, antialias=False, dtype=dali.FLOAT)
    low, gain = window[0], window[1]
    scaled = dmath.clamp((volume - low) * gain, 0.0, 1.0)  # background is below the window and stays 0
    shaded = dmath.pow(scaled, gamma) * dmath.exp(field)
    foreground = volume > FOREGROUND  # from the geometry alone: what follows changes intensities only
    normalised, air = _z_score(shaded, foreground, statistics)
    return normalised, fn.cast(foreground, dtype=dali.UINT8), air, noise, spacing, status


def _depth_first(volume: Any, depth_axis: Any) -> Any:
    """Move the depth axis to the front; `perm` takes no tensor, hence the branches."""
    if depth_axis == 0:
        turned = fn.transpose(volume, perm=[0, 1, 2, 3], transpose_layout=False)
    elif depth_axis == 1:
        turned = fn.transpose(volume, perm=[1, 0, 2, 3], transpose_layout=False)
    else:
        turned = fn.transpose(volume, perm=[2, 0, 1, 3], transpose_layout=False)
    return turned


def _z_score(shaded: Any, foreground: Any, statistics: str) -> tuple[Any, Any]:
    """Zero mean, unit variance over the foreground or everything (a constant volume becomes 0, not NaN); the level of air."""
    if statistics == "volume":
        mean = fn.reductions.mean(shaded, keep_dims=True)
        variance = fn.reductions.mean((shaded - mean) * (shaded - mean))
    else:
        mask = fn.cast(foreground, dtype=dali.FLOAT)
        count = dmath.max(fn.reductions.sum(mask), 1.0)
        mean = fn.reductions.sum(shaded * mask, keep_dims=True) / count
        variance = fn.reductions.sum(mask * (shaded - mean) * (shaded - mean)) / count
    deviation = dmath.max(dmath.sqrt(variance), LEAST_DEVIATION)
    return (shaded - mean) / deviation, -mean / deviation
