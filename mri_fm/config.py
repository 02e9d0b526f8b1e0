"""The configuration: dataclasses are the schema, YAML presets fill it, `key=value` words override it.

`load_config("jepa_vcr", ["recipe=paper", "model=vit_small", "train.steps=100"])` merges, in this order, `presets/base.yaml`,
`presets/objective/jepa_vcr.yaml`, what `presets/recipe/paper.yaml` says for this objective, `presets/model/vit_small.yaml`,
`presets/data/….yaml`, `presets/optim/….yaml` and the words. An unknown key or an ill-typed value is a `UserError` that names
the nearest key.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from mri_fm.data.evaluation import EvaluationConfig
from mri_fm.errors import UserError
from mri_fm.merging import GROUPS, PRESETS, layers_of, merge, parse_word, preset_file, split_words
from mri_fm.model_config import ModelConfig
from mri_fm.run_config import CheckpointConfig, ObserveConfig, ProfileConfig, RunConfig, ValConfig, WandbConfig
from mri_fm.train_config import OptimConfig, TrainConfig


@dataclass
class ArtefactConfig:
    """Artefacts of the acquisition: the probability of each, drawn by itself (0, the default: never), and how strong at most.

    docs/augmentation.md has the equations.
    """

    motion: float = 0.0  # the head moves between lines of k-space
    motion_moves: int = 3  # most moves during the scan
    motion_mm: float = 4.0  # largest shift along each axis
    motion_degrees: float = 4.0  # largest turn about each axis
    ghosting: float = 0.0  # every second, third or fourth line of k-space is weaker
    ghosting_strength: float = 0.8  # largest loss of these lines, of 1
    spike: float = 0.0  # one wrong point of k-space: stripes
    spike_strength: float = 1.0  # largest amplitude, in units of the volume's mean intensity
    anisotropy: float = 0.0  # a coarser resolution along one axis
    anisotropy_factor: float = 3.0  # largest loss of resolution

    def __post_init__(self) -> None:
        """Check what types cannot."""
        ranges = dict.fromkeys(("motion", "ghosting", "spike", "anisotropy", "ghosting_strength"), (0, 1))
        ranges |= {"motion_moves": (1, 20), "motion_mm": (0, 50), "motion_degrees": (0, 45)}
        ranges |= {"spike_strength": (0, 20), "anisotropy_factor": (1, 20)}
        for key, (least, most) in ranges.items():
            if not least <= getattr(self, key) <= most:
                raise UserError(f"data.augment.artefacts.{key}={getattr(self, key)} must be between {least} and {most}")


@dataclass
class AugmentConfig:
    """Ranges of the augmentation; 0 switches a part off."""

    orientation: bool = True  # draw the depth axis among three where the volume is nearly isotropic
    flip: float = 0.5  # probability of a left-right flip
    scale: float = 0.1  # the anatomy grows by a factor uniform in 1 ± this, below 0.5
    rotation: float = 0.0  # degrees: the angle, about the depth axis, is uniform in ± this; at most 45
    rotation_probability: float = 1.0
    gamma: float = 0.1  # log gamma is uniform in ± this
    bias: float = 0.2  # standard deviation of the log bias field's control points
    blur: float = 1.0  # largest standard deviation of a Gaussian blur, mm
    blur_probability: float = 0.2
    noise: float = 0.1  # largest standard deviation of the voxel noise, in units of the z-scored volume
    rician: bool = False  # the noise of a magnitude image rather than Gaussian noise
    artefacts: ArtefactConfig = field(default_factory=ArtefactConfig)

    def __post_init__(self) -> None:
        """Check what types cannot."""
        ranges = {
            "flip": (1.0, "0.5"),
            "scale": (0.499, "0.1"),
            "rotation": (45.0, "10"),
            "rotation_probability": (1.0, "0.5"),
            "gamma": (5.0, "0.1"),
            "bias": (5.0, "0.2"),
            "blur": (20.0, "1"),
            "blur_probability": (1.0, "0.2"),
            "noise": (10.0, "0.1"),
        }
        for key, (most, example) in ranges.items():
            if not 0 <= getattr(self, key) <= most:
                raise UserError(
                    f"data.augment.{key}={getattr(self, key)} must be between 0 and {most:g}, for instance {example}"
                )


@dataclass
class StageConfig:
    """A stage of a curriculum: the size of the inputs until a fraction of the run's steps."""

    until: float = MISSING
    size: list[int] = MISSING  # voxels along depth, height, width


@dataclass
class DataConfig:
    """Where samples come from and what is done to them."""

    corpus: str = MISSING  # a folder written by preprocessing.build_shards, or s3://bucket/prefix of a copy of it
    size: list[int] = field(default_factory=lambda: [32, 64, 64])  # voxels along depth, height, width
    device: str = "auto"  # where DALI works: auto (gpu where there is one), cpu, gpu
    threads: int = 1  # DALI threads of one rank
    workers: int = 0  # processes per rank that read; 0: the rank itself, cheapest on local storage (docs/faults.md)
    timeout_s: float = 300.0  # a read, or a silence of the loader or of a rank, that lasts longer is a fault (S3: above 60)
    statistics: str = "foreground"  # percentiles and z-score over: foreground, volume (as in the paper)
    reader: str = "shards"  # shards, archive (volumes.zarr, for evaluation), sequential (DALI's; see docs/sources.md)
    cache_dir: str | None = None  # folder on a disk of the node that keeps payloads, for ranks and workers together
    cache_gb: float = 100.0  # 10^9 bytes that cache_dir may take; what was used longest ago makes room
    contrasts: list[str] = field(default_factory=list)  # train on these alone; empty: all
    mixture: dict[str, float] = field(default_factory=dict)  # weights of data sets; a name not given is left out; {}: by size
    mixture_by: list[str] = field(default_factory=lambda: ["dataset"])  # what the names are of: dataset, contrast or both, A/T1
    temperature: float = 1.0  # shares of the mixture ∝ rate^(1/temperature): 1 as they are, 5 flatter, .inf equal
    curriculum: list[StageConfig] = field(default_factory=list)  # sizes before `size`: [{until: 0.5, size: [16,32,32]}]
    views: int = 1  # crops of a volume, each with its own augmentation; all count as samples of their step
    session_contrasts: int = 0  # 0: a position is a volume; k: it is a session, shown by up to k contrasts of it
    crop_foreground: float = 0.0  # least share of a volume's foreground that its crop holds; 0: crops lie anywhere
    skip_budget: int = 0  # samples that may be skipped (and replaced) before the run stops
    verify: str = "full"  # at start: full (checksums of every shard), size
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def __post_init__(self) -> None:
        """Check what types cannot.

        Raises:
            UserError: a mixture without positive shares or of what a session has several of, stages of a curriculum that do
                not follow each other, or a number out of range.
        """
        for name, weight in self.mixture.items():
            if not 0.0 < weight < math.inf:
                raise UserError(f"data.mixture.{name}={weight} must be above 0; a name that is not given is left out")
        if self.mixture_by not in (["dataset"], ["contrast"], ["dataset", "contrast"]):
            raise UserError(f"data.mixture_by={self.mixture_by} is not one of [dataset], [contrast], [dataset,contrast]")
        if self.session_contrasts and "contrast" in self.mixture_by:
            raise UserError("data.mixture_by names contrasts, of which a session has several: set data.session_contrasts=0")
        ranges = {
            "temperature": (self.temperature > 0.0, "above 0; 1 changes nothing"),
            "views": (1 <= self.views <= 256, "between 1 and 256"),
            "session_contrasts": (0 <= self.session_contrasts <= 256, "between 0 (off) and 256"),
            "crop_foreground": (0.0 <= self.crop_foreground <= 1.0, "in [0, 1], for instance 0.9"),
        }
        for key, (holds, advice) in ranges.items():
            if not holds:
                raise UserError(f"data.{key}={getattr(self, key)} must be {advice}")
        ends = [0.0, *(stage.until for stage in self.curriculum), 1.0]
        if not all(before < after for before, after in itertools.pairwise(ends)):
            raise UserError(
                f"data.curriculum ends its stages at {ends[1:-1]}: these must ascend between 0 and 1; data.size follows"
            )

    @property
    def rows(self) -> int:
        """Volumes of a position."""
        return self.views * max(1, self.session_contrasts)


@dataclass
class Config:
    """Everything a run depends on. `objective` is the dataclass of the chosen objective (`Objective.Config`)."""

    objective: Any = MISSING
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    val: ValConfig = field(default_factory=ValConfig)
    observe: ObserveConfig = field(default_factory=ObserveConfig)
    profile: ProfileConfig = field(default_factory=ProfileConfig)
    wandb: WandbConfig = field(default_factory=WandbConfig)
    run: RunConfig = field(default_factory=RunConfig)
    seed: int = 0
    log_every: int = 10


def load_config(objective: str, words: Sequence[str] = ()) -> Config:
    """Compose a configuration.

    Args:
        objective: a name of `mri_fm.objectives.OBJECTIVES`.
        words: `key=value` overrides; `recipe=NAME`, `model=NAME`, `data=NAME` and `optim=NAME` choose presets.

    Raises:
        UserError: unknown objective, preset or key (the nearest one is named), a recipe that does not know the objective, or a
            value of the wrong type.
    """
    from mri_fm.objectives import objective_class  # the objectives import this module

    merged = OmegaConf.structured(Config)
    merged.objective = OmegaConf.structured(objective_class(objective).Config)
    choices, overrides = split_words(words)
    files = [PRESETS / "base.yaml", preset_file("objective", objective)]
    files += [preset_file(group, choices[group]) for group in GROUPS if group in choices]
    for file in files:
        for layer in layers_of(file, objective):
            merge(merged, layer, str(file.relative_to(PRESETS)))
    for word in overrides:
        merge(merged, parse_word(word), f"'{word}'")
    config = _to_object(merged)
    _check(config)
    return config


def config_from_yaml(path: Path) -> Config:
    """Read back the `config.yaml` of a run folder.

    Raises:
        UserError: no such file, or a file this version cannot read.
    """
    if not path.is_file():
        raise UserError(f"no {path}: give the folder of a run that train.py has started")
    from mri_fm.objectives import objective_class

    try:
        loaded = OmegaConf.load(path)
        name = str(loaded.objective.name)
    except (YAMLError, OmegaConfBaseException, AttributeError) as error:
        raise UserError(f"{path} is not a configuration that train.py wrote; starting the run again writes it anew") from error
    merged = OmegaConf.structured(Config)
    merged.objective = OmegaConf.structured(objective_class(name).Config)
    merge(merged, loaded, str(path))
    return _to_object(merged)


def to_yaml(config: Config) -> str:
    """The resolved configuration as YAML, readable by `config_from_yaml`."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def _to_object(merged: DictConfig) -> Config:
    try:
        missing = sorted(OmegaConf.missing_keys(merged))
        if missing:
            raise UserError(f"these keys have no default, set them on the command line: {' '.join(f'{k}=…' for k in missing)}")
        return cast(Config, OmegaConf.to_object(merged))
    except OmegaConfBaseException as error:
        raise UserError(f"configuration: {str(error).splitlines()[0]}") from error


def _check(config: Config) -> None:
    """Constraints that types cannot express."""
    choices = {
        "data.device": (config.data.device, ("auto", "cpu", "gpu")),
        "data.reader": (config.data.reader, ("shards", "archive", "sequential")),
        "data.statistics": (config.data.statistics, ("foreground", "volume")),
        "data.verify": (config.data.verify, ("full", "size")),
        "optim.decay": (config.optim.decay, ("cosine", "constant")),
        "train.precision": (config.train.precision, ("auto", "bf16", "fp32")),
        "wandb.mode": (config.wandb.mode, ("online", "offline", "disabled")),
    }
    for key, (value, allowed) in choices.items():
        if value not in allowed:
            raise UserError(f"{key}={value} is not one of {', '.join(allowed)}")
    _check_sizes(config)
    if len(config.profile.window()) and config.profile.window()[-1] > config.train.steps:
        raise UserError(f"profile.steps={config.profile.steps} ends after train.steps={config.train.steps}: take earlier steps")
    for head in (config.model, config.model.predictor, config.model.decoder):
        if head.width % head.heads:
            raise UserError(f"model width {head.width} does not divide by its {head.heads} heads")
    phases = (config.optim.warmup, config.optim.cooldown)
    if min(phases) < 0 or sum(phases) > 1:
        raise UserError(
            f"optim.warmup={phases[0]} and optim.cooldown={phases[1]} are fractions of the steps; together at most 1"
        )
    positive = {
        "data.threads": config.data.threads,
        "train.steps": config.train.steps,
        "train.global_batch": config.train.global_batch,
        "train.accumulation": config.train.accumulation,
        "checkpoint.every": config.checkpoint.every,
        "checkpoint.keep_last": config.checkpoint.keep_last,
        "val.batches": config.val.batches,
        "log_every": config.log_every,
    }
    for key, number in positive.items():
        if number < 1:
            raise UserError(f"{key}={number} must be at least 1")
    not_negative = {
        "data.workers": config.data.workers,
        "data.skip_budget": config.data.skip_budget,
        "train.nonfinite_budget": config.train.nonfinite_budget,
    }
    for key, number in not_negative.items():
        if number < 0:
            raise UserError(f"{key}={number} must be 0 or more")
    if not 0 < config.data.timeout_s < math.inf:
        raise UserError(f"data.timeout_s={config.data.timeout_s} must be a number of seconds above 0, for instance 300")
    _check_sequential(config.data)
    if not 0 < config.data.cache_gb < math.inf:
        raise UserError(f"data.cache_gb={config.data.cache_gb} must be above 0, for instance 100")
    if config.observe.samples < 2:
        raise UserError(f"observe.samples={config.observe.samples} must be at least 2, or set observe.every=0")


def _check_sizes(config: Config) -> None:
    """Sizes of inputs and patches, and other lists of a fixed length."""
    sizes = [("data.size", config.data.size)]
    sizes += [(f"data.curriculum[{number}].size", stage.size) for number, stage in enumerate(config.data.curriculum)]
    lengths: list[tuple[str, Sequence[float], int]] = [(key, size, 3) for key, size in sizes]
    lengths += [("model.patch", config.model.patch, 3), ("optim.betas", config.optim.betas, 2)]
    for key, values, length in lengths:
        if len(values) != length:
            raise UserError(f"{key}={values} must have {length} numbers")
    for key, size in sizes:
        for name, axis, patch in zip(["depth", "height", "width"], size, config.model.patch, strict=True):
            if axis <= 0 or patch <= 0 or axis % patch:
                raise UserError(f"{key}: {name} {axis} does not divide by the patch of {patch}; take a multiple of it")
        if size == config.model.patch:
            raise UserError(f"{key}={size} is a single patch, and masks need two: take larger volumes or smaller patches")


def _check_sequential(data: DataConfig) -> None:
    """A stream in the order of the shards has no part in what needs samples by number."""
    options = {
        "workers": data.workers > 0,
        "mixture": bool(data.mixture),
        "temperature": data.temperature != 1.0,
        "session_contrasts": data.session_contrasts > 0,
        "cache_dir": data.cache_dir is not None,
    }
    asked = [f"data.{name}" for name, is_set in options.items() if is_set]
    if data.reader == "sequential" and asked:
        raise UserError(f"data.reader=sequential cannot serve {', '.join(asked)}: leave that out, or take data.reader=shards")
