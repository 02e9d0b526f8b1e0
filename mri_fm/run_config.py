"""The configuration of what a run keeps, watches and records."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

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
class AlertConfig:
    """When a logged line is an alert (mri_fm/observe/alerts.py); 0 switches a rule off.

    Raises:
        UserError: a threshold that is negative, or never or always exceeded.
    """

    collapse: float = 0.25  # feature_std below this share of its largest so far
    least_rank: float = 2.0  # effective_rank below this
    loss_spike: float = 3.0  # loss above this many times its median over the last 32 logged lines
    data_wait: float = 0.5  # share of the step spent waiting for samples, in three logged lines on end
    stall: float = 5.0  # step_time, or the silence since the last logged line, above this many times the usual one

    def __post_init__(self) -> None:
        """Check what types cannot."""
        for key, below in {"collapse": 1.0, "data_wait": 1.0, "least_rank": math.inf}.items():
            if not 0.0 <= getattr(self, key) < below:
                raise UserError(f"observe.alerts.{key}={getattr(self, key)} must be 0 (off) or more, and below {below:g}")
        for key in ("loss_spike", "stall"):
            if getattr(self, key) != 0.0 and not 1.0 < getattr(self, key) < math.inf:
                raise UserError(f"observe.alerts.{key}={getattr(self, key)} must be 0 (off) or above 1, for instance 3")


@dataclass
class ProbeConfig:
    """A linear and a kNN probe of the encoder on labelled volumes of the corpus, on the way (docs/watching.md).

    Raises:
        UserError: too few volumes, or an interval that is negative.
    """

    label: str = ""  # column of the manifest with two classes or more; empty: no probe
    unit: str = "subject"  # column whose equal values are never in training and test part of the probe at once
    every: int = 1000  # steps between probes, beside those after the first and the last step
    samples: int = 128  # labelled volumes at most, classes in turn, kept in host memory
    neighbours: int = 5  # of the kNN probe

    def __post_init__(self) -> None:
        """Check what types cannot."""
        for key, least in {"every": 1, "samples": 8, "neighbours": 1}.items():
            if getattr(self, key) < least:
                raise UserError(f"observe.probe.{key}={getattr(self, key)} must be at least {least}")


@dataclass
class ObserveConfig:
    """What a fixed batch of training volumes and the optimizer's step say of the run's health (docs/watching.md)."""

    every: int = 250  # steps between observations, beside those after the first and the last step; 0: never
    samples: int = 16  # volumes in the fixed batch, shared out over the ranks; ranks of features cannot exceed it
    pictures: int = 5  # every so many observations one is drawn, beside the first and the last; 0: none
    tensorboard: bool = False  # write the numbers and pictures of W&B to run.dir/tensorboard as well
    alerts: AlertConfig = field(default_factory=AlertConfig)
    probe: ProbeConfig = field(default_factory=ProbeConfig)

    def __post_init__(self) -> None:
        """Check what types cannot.

        Raises:
            UserError: a negative interval.
        """
        for key in ("every", "pictures"):
            if getattr(self, key) < 0:
                raise UserError(f"observe.{key}={getattr(self, key)} must be 0 (never) or more")

    def draws(self, done: int, steps: int) -> bool:
        """Whether a picture is due where step `done` of `steps` is observed."""
        return self.pictures > 0 and (done in (1, steps) or done // self.every % self.pictures == 0)


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
    timeout_s: float = 60.0  # longest wait for the server at the start and at the end; what is not sent by then stays in wandb/

    def __post_init__(self) -> None:
        """Check what types cannot.

        Raises:
            UserError: no time at all.
        """
        if not 1.0 <= self.timeout_s < math.inf:
            raise UserError(f"wandb.timeout_s={self.timeout_s} must be a number of seconds from 1 on, for instance 60")


@dataclass
class RunConfig:
    """Where a run leaves config.yaml, metrics.jsonl, events.jsonl, pictures/, checkpoints/, wandb/ and tensorboard/."""

    dir: str = MISSING
