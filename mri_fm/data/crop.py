"""Where the square of a crop is placed so that it holds the brain.

Axes: Z, Y, X source voxels.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mri_fm.data.params import SampleParams
from mri_fm.rng import Stream, generator


def hold_foreground(params: SampleParams, voxels_ZYX: np.ndarray, share: float, *, seed: int, row: int) -> SampleParams:
    """Move the crop until it holds a share of the volume's foreground.

    A crop that does stays where it is. Else it goes to a uniformly drawn place that does, or, if there is none, to one of
    those that hold most. The square leaves out a part of one axis at most, the longer one in its plane.

    Args:
        params: how the volume is cropped.
        voxels_ZYX: its stored voxels; 0 is background.
        share: of the foreground voxels, in (0, 1].
        seed: the run's seed.
        row: number of the row.

    Returns:
        The same parameters with another start.
    """
    cut = [axis for axis in range(3) if params.extent[axis] < voxels_ZYX.shape[axis]]
    if not cut:
        return params
    held = held_by_start(voxels_ZYX, cut[0], params.extent[cut[0]])
    fitting = np.flatnonzero(held >= min(share * np.count_nonzero(voxels_ZYX), held.max()))
    if params.start[cut[0]] in fitting:
        return params
    place = int(generator(seed, Stream.CROP, row).integers(len(fitting)))
    z, y, x = (int(fitting[place]) if axis == cut[0] else start for axis, start in enumerate(params.start))
    return replace(params, start=(z, y, x))


def held_by_start(voxels_ZYX: np.ndarray, axis: int, extent: int) -> np.ndarray:
    """Foreground voxels in slices start … start + extent − 1 along an axis, for each possible start; int64."""
    others = tuple(other for other in range(3) if other != axis)
    before = np.concatenate([[0], np.count_nonzero(voxels_ZYX, axis=others).cumsum()])
    return np.asarray(before[extent:] - before[:-extent])
