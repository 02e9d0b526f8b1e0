"""The configuration of what a run keeps, watches and records."""

from __future__ import annotations

import re
from dataclasses import dataclass

from omegaconf import MISSING

from mri_fm.errors import UserError


@dataclass
class CheckpointConfig:
    """A checkpoint is written every `every` steps and at the end, in the background; those that stay are the following."""

    every: int = 100
    keep_last: int = 2  # the newest ones
    keep_every: int = 0  # also those of multiples of this many steps; 0: none

    def __post_init__(self) -> None:
        """Check what types cannot."""
        if self.keep_every < 0 or self.keep_every % self.every:
            raise UserError(f"checkpoint.keep_every={self.keep_every} must be 0 or a multiple of checkpoint.every={self.every}")


@dataclass
class ValConfig:
    """The loss on the corpus' `val` split with fixed crops and masks; every 0: never."""

    every: int = 0
    batches: int = 1  # global micro-batches per evaluation


@dataclass
class ObserveConfig:
    """What a fixed batch of training volumes and the optimizer's step say of the run's health (docs/watching.md)."""

    every: int = 200  # steps between observations, beside those after the first and the last step; 0: never
    samples: int = 16  # volumes in the fixed batch, shared out over the ranks; ranks of features cannot exceed it


@dataclass
class ProfileConfig:
    """A trace of some steps by torch.profiler, in `run.dir`/profile.

    Raises:
        UserError: steps that are not of the form FIRST:LAST.
    """

    steps: str = ""  # FIRST:LAST, from 1 and both included, for instance 10:15; empty: none

    def __post_init__(self) -> None:
        """Check what types cannot."""
        self.window()

    def window(self) -> range:
        """The steps; an empty range where none are asked for."""
        if not self.steps:
            return range(0)
        match = re.fullmatch(r"(\d+):(\d+)", self.steps)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise UserError(f"profile.steps={self.steps} is not of the form FIRST:LAST, for instance 10:15")
        return range(int(match[1]), int(match[2]) + 1)


@dataclass
class WandbConfig:
    """Weights & Biases. Offline runs are uploaded later with `wandb sync`."""

    mode: str = "offline"  # online, offline, disabled
    project: str = "mri-fm"
    entity: str | None = None
    name: str | None = None


@dataclass
class RunConfig:
    """Where a run leaves config.yaml, metrics.jsonl, checkpoints/ and wandb/."""

    dir: str = MISSING
