"""Which ranks take other samples, and which share out the tokens of the same ones (`mri_fm.models.sequence`).

Of W ranks, S = `train.sequence_parallel` neighbours are a sequence group. For the loader there are W/S ranks; ZeRO shards over
all W.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.distributed as dist

from mri_fm.config import Config
from mri_fm.engine.environment import Environment
from mri_fm.errors import UserError
from mri_fm.models.layers import Attention
from mri_fm.models.sequence import SequenceGroup
from mri_fm.models.vit import as_size3
from mri_fm.objectives import Objective


@dataclass(frozen=True)
class Groups:
    """The two groups that a rank is in, or None each where no tokens are shared out."""

    sequence: SequenceGroup | None = None  # has the same samples
    batch: dist.ProcessGroup | None = None  # has all samples of a micro-step, each once


def data_place(environment: Environment, size: int) -> tuple[int, int]:
    """Rank and number of ranks for whoever shares out samples, with sequence groups of `size` ranks.

    Raises:
        UserError: groups that do not divide the ranks.
    """
    if environment.world % size:
        raise UserError(
            f"train.sequence_parallel={size} does not divide the {environment.world} ranks: start a multiple of {size}, or "
            "set it to a divisor of them"
        )
    return environment.rank // size, environment.world // size


def build_groups(environment: Environment, size: int) -> Groups:
    """Form sequence groups of `size` ranks; called by all ranks together."""
    if size == 1:
        return Groups()
    world = environment.world
    sequences = [dist.new_group(list(range(first, first + size))) for first in range(0, world, size)]
    batches = [dist.new_group(list(range(first, world, size))) for first in range(size)]
    group, place = divmod(environment.rank, size)
    return Groups(SequenceGroup(sequences[group], place, size), batches[place])


def check_shares(objective: Objective, config: Config) -> None:
    """Make sure that every rank has heads and tokens.

    Raises:
        UserError: blocks that are compiled, heads that do not divide, or inputs of fewer visible tokens than ranks.
    """
    size = config.train.sequence_parallel
    if size > 1 and config.train.compile:
        raise UserError(
            "train.compile=true cannot follow train.sequence_parallel, whose communication lies inside blocks: leave one out"
        )
    for name, module in objective.named_modules():
        if isinstance(module, Attention) and module.heads % size:
            raise UserError(
                f"train.sequence_parallel={size} does not divide the {module.heads} heads of the {name.partition('.')[0]}: "
                "take another number of ranks, or of model.heads, model.predictor.heads, model.decoder.heads"
            )
    for shape in (config.data.size, *(stage.size for stage in config.data.curriculum)):
        visible = objective.count_tokens(as_size3(shape))[1]
        if visible < size:
            raise UserError(
                f"train.sequence_parallel={size} is more than the {visible} visible tokens of an input of {list(shape)}: it is "
                "for very long inputs"
            )
