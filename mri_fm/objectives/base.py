"""What the engine knows of an objective.

Axes: B batch, N tokens, V visible tokens, M hidden tokens, D width, C channels, Z/Y/X voxels.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from mri_fm.errors import UserError
from mri_fm.inputs import Inputs
from mri_fm.masking import (
    KINDS,
    Blocks,
    MaskDraw,
    count_hidden,
    keep_tokens,
    multiblock_mask,
    tube_mask,
    uniform_mask,
)
from mri_fm.model_config import ModelConfig
from mri_fm.models.moe import balance_experts
from mri_fm.models.patches import Size3, patch_grid, patchify
from mri_fm.models.vit import VisionTransformer, as_size3
from mri_fm.rng import Stream, generator
from mri_fm.token_budget import count_kept


@dataclass
class MaskedConfig:
    """What all masked objectives share; the base of an objective's `Config`."""

    name: str = ""
    mask_ratio: float = 0.75  # share of hidden tokens
    token_budget: float = 1.0  # share of the tokens that are worked on, foreground first; 0: what the corpus needs
    shared_mask: bool = False  # one mask for all samples of a micro-step, so that their token slots are aligned
    mask: str = "random"  # random, tube (columns along the depth), multiblock (cuboids)
    mask_blocks: int = 8  # cuboids of multiblock
    mask_scale: list[float] = field(default_factory=lambda: [0.15, 0.15])  # a cuboid's share of the plane, drawn between these
    mask_aspect: list[float] = field(default_factory=lambda: [0.75, 1.5])  # its height / width
    mask_depth: list[float] = field(default_factory=lambda: [0.5, 1.0])  # its share of the depth
    foreground: bool = False  # hide background last
    foreground_visible: float = 0.25  # share of the foreground that then stays visible, as far as there is background to hide
    require_constant_batch: bool = False  # refuse to resume with other micro-steps where `couples_samples`

    def __post_init__(self) -> None:
        """Check what types cannot.

        Raises:
            UserError: a mask ratio that hides nothing or everything, a token budget outside [0, 1], masks of an unknown kind or
                blocks that cannot be drawn, or shared masks together with what differs from sample to sample.
        """
        if not 0.0 < self.mask_ratio < 1.0:
            raise UserError(f"objective.mask_ratio={self.mask_ratio} must lie between 0 and 1, for instance 0.75")
        if not 0.0 <= self.token_budget <= 1.0:
            raise UserError(f"objective.token_budget={self.token_budget} must lie in [0, 1]: 1 keeps all, 0 asks the corpus")
        if self.token_budget < 1.0 and self.shared_mask:
            raise UserError(
                "objective.token_budget below 1 keeps other tokens in each sample, so their slots cannot be aligned: "
                "set objective.shared_mask=false"
            )
        if self.mask not in KINDS:
            raise UserError(f"objective.mask={self.mask} is not one of {', '.join(KINDS)}")
        if not 0.0 <= self.foreground_visible <= 1.0:
            raise UserError(f"objective.foreground_visible={self.foreground_visible} must lie in [0, 1], for instance 0.25")
        if self.foreground and self.shared_mask:
            raise UserError(
                "objective.foreground=true gives each sample a mask of its own, so their slots cannot be aligned: "
                "set objective.shared_mask=false"
            )
        self.blocks()

    def couples_samples(self) -> bool:
        """Whether a sample's loss depends on the others of its micro-step: on a mask or on statistics that they share."""
        return self.shared_mask

    def require_weights(self, *keys: str) -> None:
        """Make sure that the factors of losses under these keys are finite and not negative.

        Raises:
            UserError: one is not.
        """
        for key in keys:
            if not 0.0 <= getattr(self, key) < math.inf:
                raise UserError(f"objective.{key}={getattr(self, key)} must be 0 or more: a loss is not to be maximised")

    def blocks(self) -> Blocks:
        """The cuboids of `multiblock`.

        Raises:
            UserError: they cannot be drawn.
        """
        try:
            (s0, s1), (a0, a1), (d0, d1) = self.mask_scale, self.mask_aspect, self.mask_depth
            return Blocks(self.mask_blocks, (s0, s1), (a0, a1), (d0, d1))
        except ValueError as error:
            raise UserError(
                f"{error}; change one of objective.{{mask_blocks, mask_scale, mask_aspect, mask_depth}}, for instance "
                "objective.mask_scale=[0.1,0.2]"
            ) from error


class Mask(NamedTuple):
    """Which tokens of each sample are worked on, and which of them are hidden. Indices are ascending."""

    visible_BV: Tensor  # int64, among all N tokens
    hidden_BM: Tensor  # int64, among all N tokens
    kept_BK: Tensor | None  # int64, visible and hidden together, K = V + M; None: all N
    hidden_in_kept_BM: Tensor  # int64, where the hidden ones stand among the kept ones
    grid: Size3  # of the N tokens


class Objective(nn.Module):
    """Student, heads, frozen teacher (if any) and the loss, as one module behind one DeepSpeed engine.

    A subclass names its losses, its masks and which parameters the teacher follows. The engine owns the optimizer, the
    sharding and the clocks: it evaluates `schedules` at each optimizer step and applies the EMA after it.
    """

    Config: ClassVar[type]
    student: VisionTransformer
    batch_group: dist.ProcessGroup | None = None  # has each sample of a micro-step once, for batch statistics; None: all ranks

    def __init__(self, config: Any, model: ModelConfig, size: Size3, seed: int) -> None:
        """Build the modules.

        Args:
            config: an instance of this class' `Config`.
            model: sizes of the encoder and the heads.
            size: depth, height, width in voxels of the input that positions are counted in; others may be given later.
            seed: keys the masks and the initial weights, which are therefore equal on all ranks.

        Raises:
            UserError: as `check_size`.
        """
        super().__init__()
        self.config, self.seed, self.sizes, self.size = config, seed, model, size
        self.check_size(size)
        self.student = self.draw_encoder(model, size)

    def check_size(self, size: Size3) -> None:
        """Make sure that volumes of this size can be trained on.

        Raises:
            UserError: they do not divide into patches, or are one token, of which nothing could be hidden.
        """
        try:
            grid = patch_grid(size, as_size3(self.sizes.patch))
        except ValueError as error:
            raise UserError(f"{error}: take multiples of model.patch={self.sizes.patch}") from error
        if math.prod(grid) < 2:
            raise UserError(
                f"an input of {list(size)} voxels is a single patch of model.patch={self.sizes.patch}, and masks need two or "
                "more: take larger volumes or smaller patches"
            )

    def draw_encoder(self, model: ModelConfig, size: Size3) -> VisionTransformer:
        """The encoder with the initial weights of `seed`, the same at each call; restarts torch's global generator."""
        torch.manual_seed(int(generator(self.seed, Stream.INIT, 0).integers(2**63)))
        return VisionTransformer.from_config(model, size, seed=self.seed)

    @abstractmethod
    def forward(self, inputs: Inputs, schedule: Mapping[str, float]) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of one micro-batch.

        Args:
            inputs: this rank's part; its foreground is needed with a token budget below 1 and by masks or losses that follow
                the foreground, its spacing by positions and spectra that count in millimetres.
            schedule: `schedules` at the current optimizer step.

        Returns:
            The scalar loss (mean over this rank's samples, or global for batch statistics) and detached scalar metrics.
        """

    @abstractmethod
    def flops_per_sample(self, size: Size3 | None = None) -> float:
        """FLOPs of the forward and backward pass of one sample, attention included (`mri_fm.models.flops`).

        Args:
            size: depth, height, width of the sample in voxels; None: what the objective was built for.
        """

    @abstractmethod
    def sample_losses(self, inputs: Inputs) -> Tensor:
        """What the loss asks of each sample by itself, float32 (B,), without gradient and terms that compare samples."""

    def schedules(self, steps: int) -> dict[str, np.ndarray]:
        """Values per optimizer step, float64 (steps,). The key "ema" is the teacher's momentum."""
        return {}

    def ema_pairs(self) -> list[tuple[nn.Parameter, nn.Parameter]]:
        """(teacher, student) parameters in a fixed order; the engine moves each teacher towards its student."""
        return []

    def after_step(self, skipped: Tensor | None = None) -> dict[str, Tensor]:
        """What is due after an optimizer step and the EMA, called by all ranks.

        Args:
            skipped: () float32 on the device, 1 where the step was left out; None: it was not.

        Returns:
            Scalar metrics that all ranks agree on.
        """
        return balance_experts(self.student, skipped=skipped)

    def encoder(self) -> VisionTransformer:
        """The network that is kept for downstream use."""
        return self.student

    def count_tokens(self, size: Size3 | None = None) -> tuple[int, int]:
        """K and V: how many tokens of a sample of `size` are worked on, and how many of them the student sees."""
        kept = count_kept(math.prod(patch_grid(size or self.size, self.student.patch)), self.config.token_budget)
        return kept, kept - count_hidden(kept, self.config.mask_ratio)

    def mask(self, inputs: Inputs, *, set_index: int = 0) -> Mask:
        """Draw the token budget, then hide `config.mask_ratio` of the kept tokens (`mri_fm.masking`).

        Tokens are those of the inputs' own size. Several sets of a sample (`set_index`) hide different ones among the
        same kept ones.

        Raises:
            ValueError: a token budget below 1 or foreground-aware masks without a foreground.
        """
        size = as_size3(inputs.x_BCZYX.shape[2:])
        grid, (kept, _) = patch_grid(size, self.student.patch), self.count_tokens(size)
        foreground_BN = kept_BK = None
        budgeted = kept < math.prod(grid)
        if budgeted or self.config.foreground:
            foreground_BN = self.foreground_patches(inputs).any(dim=2)
        if budgeted and foreground_BN is not None:
            kept_BK = keep_tokens(foreground_BN, kept, seed=self.seed, positions_B=inputs.positions_B)
        visible_BV, hidden_BM = self._hide(
            grid,
            MaskDraw(
                self.seed,
                inputs.positions_B,
                shared=self.config.shared_mask,
                group_position=inputs.group_position,
                set_index=set_index,
                kept_BK=kept_BK,
                foreground_BN=foreground_BN if self.config.foreground else None,
                foreground_visible=self.config.foreground_visible,
            ),
        )
        if kept_BK is None:
            return Mask(visible_BV, hidden_BM, None, hidden_BM, grid)
        return Mask(kept_BK.gather(1, visible_BV), kept_BK.gather(1, hidden_BM), kept_BK, hidden_BM, grid)

    def foreground_patches(self, inputs: Inputs) -> Tensor:
        """Which voxels of each patch are foreground, bool (B, N, P).

        Raises:
            ValueError: the inputs do not say.
        """
        if inputs.foreground_BCZYX is None:
            raise ValueError("a token budget below 1 and masks or losses that follow the foreground need foreground_BCZYX")
        return patchify(inputs.foreground_BCZYX, self.student.patch)

    def encode(self, inputs: Inputs, mask: Mask) -> Tensor:
        """The student's tokens (B, V, D) of the visible patches."""
        return self.student(inputs.x_BCZYX, mask.visible_BV, positions_B=inputs.positions_B, spacing_B3=inputs.spacing_B3)

    def _hide(self, grid: Size3, draw: MaskDraw) -> tuple[Tensor, Tensor]:
        """Visible and hidden among the kept tokens."""
        ratio = self.config.mask_ratio
        if self.config.mask == "tube":
            return tube_mask(grid, ratio, draw)
        if self.config.mask == "multiblock":
            return multiblock_mask(grid, ratio, draw, self.config.blocks())
        return uniform_mask(grid, ratio, draw)


def sample_means(error: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean within each sample, (B,); the mean of these is the loss of one big batch wherever it is split.

    Args:
        error: (B, …).
        weight: of its parts, not negative, (B, …) with or without the last axes; None: all count alike. A sample in which
            nothing has weight has 0, and no gradient.
    """
    if weight is None:
        return error.flatten(1).mean(1)
    if error.ndim > weight.ndim:
        error = error.flatten(weight.ndim).mean(-1)
    weight = weight.to(error.dtype)
    total_B = weight.flatten(1).sum(1).clamp_min(torch.finfo(error.dtype).tiny)
    return (error * weight).flatten(1).sum(1) / total_B
