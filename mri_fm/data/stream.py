"""What a run will draw from, checked and put into words before training starts."""

from __future__ import annotations

from collections.abc import Sequence

from mri_fm.config import Config
from mri_fm.data.corpus import Sample
from mri_fm.data.curriculum import Curriculum
from mri_fm.data.mixture import is_mixed, resolve_mixture
from mri_fm.errors import UserError


def describe_stream(samples: Sequence[Sample], config: Config, world: int) -> list[str]:
    """Lines for the user about what is not the plain shuffle of everything.

    Args:
        samples: the training samples.
        config: the run's configuration.
        world: ranks of the run.

    Raises:
        UserError: fewer samples than ranks, or a mixture of what is not there.
    """
    lines, root = [], config.data.corpus
    if len(samples) < world:
        raise UserError(
            f"{root} has {len(samples)} training volumes for {world} ranks, so each step would repeat some: "
            "start fewer ranks or build a larger corpus"
        )
    if len(samples) < config.train.global_batch:
        lines.append(
            f"{len(samples)} training volumes are fewer than train.global_batch={config.train.global_batch}: steps repeat some"
        )
    if is_mixed(config.data):
        lines.append(resolve_mixture(samples, config.data, root).describe())
    if config.data.curriculum:
        lines.append(Curriculum.of(config.data, config.train.steps).describe())
    return lines
