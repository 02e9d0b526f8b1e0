"""The configuration of what a run keeps, watches and records."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import MISSING


@dataclass
class CheckpointConfig:
    """A checkpoint is written every `every` steps and at the end; the newest `keep_last` stay."""

    every: int = 100
    keep_last: int = 2


@dataclass
class ValConfig:
    """The loss on the corpus' `val` split with fixed crops and masks; every 0: never."""

    every: int = 0
    batches: int = 1  # global micro-batches per evaluation


@dataclass
class ObserveConfig:
    """RankMe and feature standard deviation on a fixed batch; every 0: never."""

    every: int = 10
    samples: int = 16  # volumes in the fixed batch


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
