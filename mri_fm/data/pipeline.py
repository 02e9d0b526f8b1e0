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
from nvidia.dali.pipeline import do_not_convert

LEAST_DEVIATION = 1e-6
FOREGROUND = 0.5  # stored units: foreground is 1 or more, and rounding leaves traces above 0 beside it

INPUTS: tuple[tuple[str, Any, int, str], ...] = (
    ("voxels", dali.INT16, 4, "DHWC"),
    ("begin", dali.FLOAT, 1, ""),
    ("end", dali.FLOAT, 1, ""),
    ("resized_shape", dali.FLOAT, 1, ""),
    ("padded", dali.BOOL, 0, ""),
    ("anchor", dali.INT32, 1, ""),
    ("padded_shape", dali.INT32, 1, ""),
    ("rotated", dali.BOOL, 0, ""),
    ("view", dali.INT32, 1, ""),
    ("view_begin", dali.FLOAT, 1, ""),
    ("view_end", dali.FLOAT, 1, ""),
    ("view_shape", dali.FLOAT, 1, ""),
    ("matrix", dali.FLOAT, 2, ""),
    ("plane", dali.FLOAT, 1, ""),
    ("size", dali.FLOAT, 1, ""),
    ("depth_axis", dali.INT32, 0, ""),
    ("window", dali.FLOAT, 1, ""),
    ("gamma", dali.FLOAT, 0, ""),
    ("bias", dali.FLOAT, 4, "DHWC"),
    ("blurred", dali.BOOL, 0, ""),
    ("blur", dali.FLOAT, 1, ""),
    ("blur_window", dali.INT32, 1, ""),
    ("noise", dali.FLOAT, 0, ""),
    ("spacing", dali.FLOAT, 1, ""),
    ("status", dali.INT64, 1, ""),
)
"""Name, type, rank and layout of what the source feeds, in order."""

BLOCKS: tuple[tuple[str, Any, int, str], ...] = (
    ("blocks", dali.UINT8, 1, ""),
    ("block_sizes", dali.INT32, 1, ""),
    ("plane_shape", dali.INT32, 1, ""),
)
"""What comes in place of voxels where the GPU inflates them: one LZ4 block per plane (y, x)."""


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
    inflate: bool = False,
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
        inflate: the source gives `BLOCKS` in place of voxels; on a GPU alone.

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
        inflate,
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
def _graph(source: Any, device: str, statistics: str, parallel: bool, sample_bytes: int | None, inflate: bool) -> Any:
    given = _inputs(source, device, parallel, sample_bytes, inflate)
    volume = _depth_first(_read(given), given)
    foreground = volume > FOREGROUND  # from the geometry alone: what follows changes intensities only
    normalised, air = _z_score(_blurred(_shaded(volume, given), given), foreground, statistics)
    return normalised, fn.cast(foreground, dtype=dali.UINT8), air, given["noise"], given["spacing"], given["status"]


@do_not_convert
def _inputs(source: Any, device: str, parallel: bool, sample_bytes: int | None, inflate: bool) -> dict[str, Any]:
    """`INPUTS` by name; what voxels are computed from goes to the device, arguments of operators stay on the CPU."""
    fed = (*BLOCKS, *INPUTS[1:]) if inflate else INPUTS
    inputs = fn.external_source(
        source,
        num_outputs=len(fed),
        batch=False,
        parallel=parallel,
        bytes_per_sample_hint=sample_bytes,
        dtype=[kind for _, kind, _, _ in fed],
        ndim=[rank for _, _, rank, _ in fed],
        layout=[layout for _, _, _, layout in fed],
    )
    given = dict(zip((name for name, _, _, _ in fed), inputs, strict=True))
    if inflate:
        planes = {"chunk_sizes": given["block_sizes"], "shape": given["plane_shape"], "dtype": dali.INT16}
        given["voxels"] = fn.decoders.inflate(given["blocks"].gpu(), **planes, layout="HWC", sequence_axis_name="D")
    if device == "gpu":
        given |= {name: given[name].gpu() for name in ("voxels", "window", "gamma", "bias")}
    return given


def _read(given: dict[str, Any]) -> Any:
    """Crop, flip, scale and resize in one pass, along the depth alone before a rotation; what lies beyond the volume is 0."""
    resized = given["voxels"]
    if given["rotated"]:
        resized = _resized_in_depth(given)
    else:
        resized = _resized(given["voxels"], given["begin"], given["end"], given["resized_shape"])
    volume = resized
    if given["padded"]:
        frame = {"start": given["anchor"], "shape": given["padded_shape"], "axes": [0, 1, 2]}
        volume = fn.slice(resized, **frame, out_of_bounds_policy="pad")
    return volume


@do_not_convert
def _resized_in_depth(given: dict[str, Any]) -> Any:
    view = fn.reshape(given["voxels"], shape=given["view"], layout="FHWC")
    resized = _resized(view, given["view_begin"], given["view_end"], given["view_shape"])
    shape = fn.cat(fn.cast(given["resized_shape"], dtype=dali.INT32), dali.Constant([1], dtype=dali.INT32))
    return fn.reshape(resized, shape=shape, layout="DHWC")


@do_not_convert
def _resized(volume: Any, begin: Any, end: Any, shape: Any) -> Any:
    place = {"size": shape, "roi_start": begin, "roi_end": end}
    return fn.resize(volume, **place, interp_type=dali.INTERP_LINEAR, antialias=False, dtype=dali.FLOAT)


def _depth_first(volume: Any, given: dict[str, Any]) -> Any:
    """Move the depth axis to the front, rotating on the way; `perm` takes no tensor, hence the branches."""
    turned = volume
    if given["rotated"]:
        turned = _rotated(volume, given)
    elif given["depth_axis"] == 1:
        turned = _turned(volume, 1, 0, 2)
    elif given["depth_axis"] == 2:
        turned = _turned(volume, 2, 0, 1)
    return turned


def _rotated(volume: Any, given: dict[str, Any]) -> Any:
    """Turn in the plane across the depth, the slices being the channels of one image; then the depth first."""
    depth_last = volume
    if given["depth_axis"] == 0:
        depth_last = _turned(volume, 1, 2, 0)
    elif given["depth_axis"] == 1:
        depth_last = _turned(volume, 0, 2, 1)
    return _turned(_warped(depth_last, given), 2, 0, 1)


@do_not_convert
def _turned(volume: Any, *axes: int) -> Any:
    return fn.transpose(volume, perm=[*axes, 3], transpose_layout=False)


def _warped(volume: Any, given: dict[str, Any]) -> Any:
    plane = fn.warp_affine(
        fn.reshape(fn.squeeze(volume, axes=[3]), layout="HWC"),
        matrix=given["matrix"],
        size=given["plane"],
        interp_type=dali.INTERP_LINEAR,
        fill_value=0.0,
    )
    return fn.reshape(fn.expand_dims(plane, axes=[3]), layout="DHWC")


def _shaded(volume: Any, given: dict[str, Any]) -> Any:
    """Clip to the window, then gamma and the bias field."""
    low, gain = given["window"][0], given["window"][1]
    # Background is below the window and stays 0. DALI's clamp takes five times as long as min and max.
    scaled = dmath.max(dmath.min((volume - low) * gain, 1.0), 0.0)
    field = fn.resize(given["bias"], size=given["size"], interp_type=dali.INTERP_LINEAR, antialias=False, dtype=dali.FLOAT)
    return dmath.pow(scaled, given["gamma"]) * dmath.exp(field)


def _blurred(volume: Any, given: dict[str, Any]) -> Any:
    blurred = volume
    if given["blurred"]:
        blurred = fn.gaussian_blur(volume, sigma=given["blur"], window_size=given["blur_window"])
    return blurred


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
