"""What a run will draw from, checked and put into words before training starts."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mri_fm.config import Config
from mri_fm.data.corpus import Sample
from mri_fm.data.curriculum import Curriculum
from mri_fm.data.mixture import is_mixed, resolve_mixture
from mri_fm.data.params import centre_params
from mri_fm.data.plan import group_units
from mri_fm.data.sessions import Sessions
from mri_fm.errors import UserError

LARGEST_ENLARGEMENT = 8  # voxels of the input per voxel of the crop: twofold along each axis


def describe_stream(samples: Sequence[Sample], config: Config, world: int) -> list[str]:
    """Lines for the user about what is not the plain shuffle of everything.

    Args:
        samples: the training samples.
        config: the run's configuration.
        world: ranks of the run.

    Raises:
        UserError: fewer volumes (or sessions) than ranks, a mixture of what is not there, or inputs far larger than any volume.
    """
    units, sessions = group_units(samples, config.data, config.seed)
    kind = "volumes" if sessions is None else "sessions"
    batch, lines = config.train.global_batch, []
    if len(units) < world:
        raise UserError(
            f"{config.data.corpus} has {len(units)} training {kind} for {world} ranks, so each step would repeat some: "
            "start fewer ranks or build a larger corpus"
        )
    for size in Curriculum.of(config.data, config.train.steps).sizes:
        _check_enlargement(samples, size, config.data.corpus)
    if len(units) < batch:
        lines.append(f"{len(units)} training {kind} are fewer than train.global_batch={batch}: steps repeat some")
    if sessions is not None:
        lines.append(_describe_sessions(sessions, len(samples)))
    if is_mixed(config.data):
        lines.append(resolve_mixture(units, config.data).describe())
    if config.data.curriculum:
        lines.append(Curriculum.of(config.data, config.train.steps).describe())
    if config.data.rows > 1:
        lines.append(
            f"each of the {batch} positions of a step holds {config.data.rows} volumes: {batch * config.data.rows} in all"
        )
    return lines


def _describe_sessions(sessions: Sessions, volumes: int) -> str:
    shown = sum(sessions.shown(unit) for unit in range(len(sessions)))
    extra = 1 - shown / (len(sessions) * sessions.slots)
    return f"sessions: {len(sessions)} of {volumes} volumes, {sessions.slots} contrasts each, {extra:.1%} of them repeated"


def _check_enlargement(samples: Sequence[Sample], size: Sequence[int], root: str) -> None:
    """Refuse inputs that consist of interpolation: for every volume the whole crop is far smaller."""
    largest = max(samples, key=_crop_voxels)
    if math.prod(size) > LARGEST_ENLARGEMENT * _crop_voxels(largest):
        raise UserError(
            f"inputs of {list(size)} have more than {LARGEST_ENLARGEMENT} times the voxels of any crop of {root}; "
            f"the largest, {largest.key}, has {'x'.join(map(str, largest.shape))} voxels: take a smaller data.size"
        )


def _crop_voxels(sample: Sample) -> int:
    return math.prod(centre_params(sample.shape, (1, 1, 1)).extent)
