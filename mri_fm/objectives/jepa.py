"""JEPA: predict the features of hidden patches instead of their voxels.

    s = student(visible tokens),  h = LN(teacher(all tokens))  with a further LayerNorm without weights
    ẑ = predictor(s) at hidden tokens;  L = mean |ẑ − h|, or another `distance`, over the tokens of `mask_sets` masks together
    teacher ← m·teacher + (1 − m)·student,  m: 0.998 → 1

With `token_weight=foreground` the mean over the M hidden tokens t of a sample is weighted, so that predicting air counts less:

    Σ_t w_t · mean |ẑ_t − h_t| / Σ_t w_t,  w_t = max(share of foreground voxels in t, `token_weight_floor`)

Reference: Assran et al., I-JEPA, CVPR 2023; Bardes et al., V-JEPA, TMLR 2024; on brain MRI arXiv 2606.13315; weights that
follow the foreground: Neuro-JEPA (Huang et al., arXiv 2606.14957), whose exact form is not copied here.

    import torch
    from mri_fm.inputs import Inputs
    from mri_fm.model_config import HeadConfig, ModelConfig
    from mri_fm.objectives.jepa import JEPA

    model = ModelConfig(width=48, depth=2, heads=3, predictor=HeadConfig(width=48, depth=1, heads=3))
    jepa = JEPA(JEPA.Config(), model, size=(16, 16, 16), seed=0)
    volumes = torch.randn(2, 1, 16, 16, 16)
    loss, metrics = jepa(Inputs(volumes, torch.arange(2), 0), {})
    loss.backward()
    print(metrics["loss_prediction"], jepa.schedules(100)["ema"][0])

Axes: B batch, N tokens, V visible tokens, M hidden tokens, D width, C channels, Z/Y/X voxels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mri_fm.errors import UserError
from mri_fm.inputs import Inputs
from mri_fm.losses.precision import at_least_float32, full_precision
from mri_fm.model_config import ModelConfig
from mri_fm.models.flops import TRAINED, encoder_flops, head_flops
from mri_fm.models.heads import predictor
from mri_fm.models.moe import balance_experts
from mri_fm.models.patches import Size3, take_tokens
from mri_fm.models.vit import VisionTransformer
from mri_fm.objectives.base import Mask, MaskedConfig, Objective, sample_means

DISTANCES: dict[str, Callable[..., Tensor]] = {"l1": F.l1_loss, "l2": F.mse_loss, "smooth_l1": F.smooth_l1_loss}

TOKEN_WEIGHTS = ("equal", "foreground")


@dataclass
class JEPAConfig(MaskedConfig):
    """Options of `JEPA`."""

    name: str = "jepa"
    distance: str = "l1"  # between prediction and target: l1, l2 (squared), smooth_l1 (quadratic below 1)
    mask_sets: int = 1  # masks of each sample; the student and the predictor run once for each, the teacher once for all
    token_weight: str = "equal"  # of hidden tokens in the loss: equal, foreground (by their share of foreground voxels)
    token_weight_floor: float = 0.0  # the least such weight; 0: tokens of background alone do not count
    ema_start: float = 0.998  # momentum of the teacher, linear over the run
    ema_end: float = 1.0

    def __post_init__(self) -> None:
        """Check what types cannot.

        Raises:
            UserError: an unknown distance or weight, no mask, or a floor or momentum outside [0, 1].
        """
        super().__post_init__()
        if self.distance not in DISTANCES:
            raise UserError(f"objective.distance={self.distance} is not one of {', '.join(DISTANCES)}")
        if self.token_weight not in TOKEN_WEIGHTS:
            raise UserError(f"objective.token_weight={self.token_weight} is not one of {', '.join(TOKEN_WEIGHTS)}")
        if self.mask_sets < 1:
            raise UserError(f"objective.mask_sets={self.mask_sets} must be at least 1: nothing else can be predicted")
        for key, usual in {"ema_start": 0.998, "ema_end": 1.0, "token_weight_floor": 0.1}.items():
            if not 0.0 <= getattr(self, key) <= 1.0:
                raise UserError(f"objective.{key}={getattr(self, key)} must lie in [0, 1], for instance {usual}")


class Features(NamedTuple):
    """What the losses of one micro-batch are made of; several mask sets lie side by side in V and M."""

    context_BVD: Tensor  # student, at visible tokens
    target_BMD: Tensor  # teacher, normalised, at hidden tokens, no gradient
    pred_BMD: Tensor  # predictor, at hidden tokens
    weight_BM: Tensor | None  # of hidden tokens in the loss; None: all alike


class JEPA(Objective):
    """Joint-embedding predictive architecture; see the top of this file."""

    Config = JEPAConfig
    config: JEPAConfig

    def __init__(self, config: JEPAConfig, model: ModelConfig, size: Size3, seed: int) -> None:
        super().__init__(config, model, size, seed)
        self.predictor = predictor(model, self.student)
        # Drawn again instead of copied: a deep copy has no weights under deepspeed.zero.Init.
        self.teacher = self.draw_encoder(model, size).requires_grad_(False).eval()

    def forward(self, inputs: Inputs, schedule: Mapping[str, float]) -> tuple[Tensor, dict[str, Tensor]]:
        """Prediction loss of this rank's samples plus `regulariser`; see `Objective.forward`."""
        features = self.features(inputs, self.masks(inputs))
        loss = self.prediction_loss(features)
        regulariser, metrics = self.regulariser(features, inputs.group_position)
        total = loss if regulariser is None else loss + regulariser
        return total, {"loss_prediction": loss.detach(), **metrics}

    def regulariser(self, features: Features, group_position: int) -> tuple[Tensor | None, dict[str, Tensor]]:
        """What keeps the features from collapsing: a weighted scalar of the global micro-batch (None: nothing), and metrics."""
        return None, {}

    def flops_per_sample(self, size: Size3 | None = None) -> float:
        """Student on visible tokens and predictor on all kept ones, per mask; the teacher's forward pass on these, once."""
        kept, visible = self.count_tokens(size)
        trained = encoder_flops(self.sizes, visible) + head_flops(self.sizes.predictor, kept, self.sizes.mlp)
        return self.config.mask_sets * TRAINED * trained + encoder_flops(self.sizes, kept)

    def masks(self, inputs: Inputs) -> list[Mask]:
        """`config.mask_sets` independent masks of each sample, see `Objective.mask`."""
        return [self.mask(inputs, set_index=index) for index in range(self.config.mask_sets)]

    def features(self, inputs: Inputs, masks: Sequence[Mask]) -> Features:
        """Run the teacher, then student and predictor for each mask."""
        with torch.no_grad():
            teacher_BKD = self.teacher(inputs.x_BCZYX, masks[0].kept_BK, spacing_B3=inputs.spacing_B3)
        share_BN1 = self._foreground_share(inputs)
        sets = []
        for mask in masks:
            context_BVD = self.encode(inputs, mask)
            target_BMD = normalize(take_tokens(teacher_BKD, mask.hidden_in_kept_BM))
            pred_BMD = self.predictor(
                context_BVD, mask.visible_BV, mask.hidden_BM, grid=mask.grid, spacing_B3=inputs.spacing_B3
            )
            weight_BM = None if share_BN1 is None else take_tokens(share_BN1, mask.hidden_BM)[..., 0]
            sets.append(Features(context_BVD, target_BMD, pred_BMD, weight_BM))
        return _side_by_side(sets)

    def _foreground_share(self, inputs: Inputs) -> Tensor | None:
        """What share of each token is foreground, and the floor at least, float32 (B, N, 1); None: tokens are equal."""
        if self.config.token_weight == "equal":
            return None
        share_BN1 = self.foreground_patches(inputs).float().mean(dim=2, keepdim=True)
        return share_BN1.clamp_min(self.config.token_weight_floor)

    def prediction_loss(self, features: Features) -> Tensor:
        """Mean distance of ẑ and h within each sample, by the tokens' weights, then over samples, in float32 at least."""
        return self._sample_distances(features).mean()

    @torch.no_grad()
    def sample_losses(self, inputs: Inputs) -> Tensor:
        """The prediction loss, without a regulariser; see `Objective.sample_losses`."""
        return self._sample_distances(self.features(inputs, self.masks(inputs)))

    def _sample_distances(self, features: Features) -> Tensor:
        with full_precision(features.pred_BMD.device):
            distance = DISTANCES[self.config.distance]
            error_BMD = distance(at_least_float32(features.pred_BMD), features.target_BMD, reduction="none")
            return sample_means(error_BMD, features.weight_BM)

    def train(self, mode: bool = True) -> Self:
        """Switch the mode of all but the teacher, which always evaluates."""
        super().train(mode)
        self.teacher.eval()
        return self

    def schedules(self, steps: int) -> dict[str, np.ndarray]:
        """The key "ema": momentum of the teacher after each step."""
        return {"ema": np.linspace(self.config.ema_start, self.config.ema_end, steps)}

    def ema_pairs(self) -> list[tuple[nn.Parameter, nn.Parameter]]:
        """Every parameter of the teacher with the student's, in the order of `parameters()`."""
        return list(zip(self.teacher.parameters(), self.student.parameters(), strict=True))

    def after_step(self, skipped: Tensor | None = None) -> dict[str, Tensor]:
        """See `Objective.after_step`; the teacher, whose parameters the EMA moves, takes over the bias of the experts."""
        return balance_experts(self.student, self.teacher, skipped)

    def encoder(self) -> VisionTransformer:
        """The teacher."""
        return self.teacher


def _side_by_side(sets: Sequence[Features]) -> Features:
    """The features of several masks as those of one, along V and M."""
    if len(sets) == 1:
        return sets[0]
    context, target, pred = (torch.cat(parts, dim=1) for parts in list(zip(*sets, strict=True))[:3])
    weights = [part.weight_BM for part in sets if part.weight_BM is not None]
    return Features(context, target, pred, torch.cat(weights, dim=1) if weights else None)


def normalize(tokens_BND: Tensor) -> Tensor:
    """LayerNorm without weights over the width, in float32 at least."""
    with full_precision(tokens_BND.device):
        return F.layer_norm(at_least_float32(tokens_BND), tokens_BND.shape[-1:])
