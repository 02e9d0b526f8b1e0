"""The configuration of the loop and of the optimizer."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from mri_fm.errors import UserError


@dataclass
class TrainConfig:
    """The loop. A step is one optimizer step over `global_batch` samples.

    Raises:
        UserError: no rank to share out tokens.
    """

    steps: int = 100
    global_batch: int = 8
    accumulation: int = 1  # micro-steps per step
    precision: str = "auto"  # auto (bf16 on a GPU, fp32 on the CPU), bf16, fp32
    clip: float = 1.0  # largest gradient norm; 0: no clipping
    checkpoint_activations: bool = False  # run blocks again in the backward pass instead of keeping what they computed
    compile: bool = False  # torch.compile of each block
    init_from: str | None = None  # a safetensors file with the encoder to start from: docs/models.md
    nonfinite_budget: int = 0  # steps that may be left out, as their loss or gradient is not finite, before the run stops
    sequence_parallel: int = 1  # ranks that share out the tokens of the same samples, for very long inputs; 1: none do

    def __post_init__(self) -> None:
        """Check what types cannot."""
        if self.sequence_parallel < 1:
            raise UserError(f"train.sequence_parallel={self.sequence_parallel} must be 1 (off) or a number of ranks, such as 2")


@dataclass
class OptimConfig:
    """AdamW and its schedules: linear warm-up from `lr_start` to `lr`, then `decay`, then a linear cool-down to `lr_end`.

    Raises:
        UserError: a rule that is not known, or a number out of range.
    """

    lr_start: float = 1e-4
    lr: float = 2e-4
    lr_end: float = 1e-6
    warmup: float = 0.1  # fraction of the steps
    decay: str = "cosine"  # after the warm-up: cosine (to lr_end), constant
    cooldown: float = 0.0  # fraction of the steps, at the end, with a straight line to lr_end
    reference_batch: int = 0  # the global batch that the three rates are meant for; 0: whichever train.global_batch says
    lr_rule: str = "linear"  # at another batch all rates are multiplied by its ratio to reference_batch: linear, or its sqrt
    layer_decay: float = 1.0  # rate of an encoder's layer over that of the layer above it; 1: the same for all
    betas: list[float] = field(default_factory=lambda: [0.9, 0.975])
    weight_decay: float = 0.005
    weight_decay_end: float = 0.0005

    def __post_init__(self) -> None:
        """Check what types cannot."""
        if self.lr_rule not in ("linear", "sqrt"):
            raise UserError(f"optim.lr_rule={self.lr_rule} is not one of linear, sqrt")
        if self.reference_batch < 0:
            raise UserError(f"optim.reference_batch={self.reference_batch} must be 0 (off) or a global batch, for instance 256")
        if not 0.0 < self.layer_decay <= 1.0:
            raise UserError(f"optim.layer_decay={self.layer_decay} must be above 0 and at most 1, for instance 0.75")

    def rate_factor(self, global_batch: int) -> float:
        """By what the learning rates are multiplied at this global batch.

        `linear` is the rule of Goyal et al. (2017, arXiv 1706.02677, §2.1), `sqrt` that for Adam of Malladi et al. (NeurIPS
        2022, §4).
        """
        ratio = global_batch / self.reference_batch if self.reference_batch else 1.0
        return math.sqrt(ratio) if self.lr_rule == "sqrt" else ratio
