"""Hybrid: MAE and JEPA on one pass of the encoder: the hidden patches' voxels and the teacher's features of them.

    L = L_mae + w · L_jepa,  both from the same visible tokens;  w = 1

The voxel term cannot collapse and keeps detail; the feature term asks for what predicts across patches. The terms are those of
`mri_fm.objectives.mae` and `mri_fm.objectives.jepa`. Related: iBOT (Zhou et al., ICLR 2022), which pairs two targets.

    import torch
    from mri_fm.inputs import Inputs
    from mri_fm.model_config import HeadConfig, ModelConfig
    from mri_fm.objectives.hybrid import Hybrid

    head = HeadConfig(width=48, depth=1, heads=3)
    model = ModelConfig(width=48, depth=2, heads=3, predictor=head, decoder=head)
    hybrid = Hybrid(Hybrid.Config(), model, size=(16, 16, 16), seed=0)
    volumes = torch.randn(2, 1, 16, 16, 16)
    loss, metrics = hybrid(Inputs(volumes, torch.arange(2), 0), {})
    loss.backward()
    print(metrics["loss_reconstruction"], metrics["loss_prediction"])

Axes: B batch, V visible tokens, M hidden tokens, P voxels of a patch, D width, C channels, Z/Y/X voxels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mri_fm.inputs import Inputs
from mri_fm.models.flops import TRAINED, head_flops
from mri_fm.models.patches import Size3
from mri_fm.objectives.jepa import JEPA, JEPAConfig
from mri_fm.objectives.mae import MAE, MAEConfig


@dataclass
class HybridConfig(JEPAConfig, MAEConfig):
    """Options of `Hybrid`: those of both, and the weight of the second."""

    name: str = "hybrid"
    prediction_weight: float = 1.0

    def __post_init__(self) -> None:
        """Check what types cannot.

        Raises:
            UserError: a negative weight.
        """
        super().__post_init__()
        self.require_weights("prediction_weight")


class Hybrid(JEPA, MAE):
    """MAE and JEPA together; see the top of this file."""

    Config = HybridConfig  # type: ignore[assignment]
    config: HybridConfig

    def forward(self, inputs: Inputs, schedule: Mapping[str, float]) -> tuple[Tensor, dict[str, Tensor]]:
        """Both losses, mean over this rank's samples; see `Objective.forward`."""
        reconstruction, prediction = (loss_B.mean() for loss_B in self._both(inputs))
        metrics = {"loss_reconstruction": reconstruction.detach(), "loss_prediction": prediction.detach()}
        return reconstruction + self.config.prediction_weight * prediction, metrics

    @torch.no_grad()
    def sample_losses(self, inputs: Inputs) -> Tensor:
        """Both, weighted; see `Objective.sample_losses`."""
        reconstruction_B, prediction_B = self._both(inputs)
        return reconstruction_B + self.config.prediction_weight * prediction_B

    def _both(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """Reconstruction and prediction loss of each sample, (B,), from one pass of the encoder for each mask."""
        masks = self.masks(inputs)
        features = self.features(inputs, masks)
        errors = []
        for mask, context_BVD in zip(masks, features.context_BVD.chunk(len(masks), dim=1), strict=True):
            pred_BMP = self.decode(inputs, mask, context_BVD)
            weight_BMP = self.voxel_weight(inputs, mask.hidden_BM)
            errors.append(self._sample_errors(pred_BMP, inputs.x_BCZYX, mask.hidden_BM, weight_BMP))
        return torch.stack(errors).mean(0) / self.config.power, self._sample_distances(features)

    def flops_per_sample(self, size: Size3 | None = None) -> float:
        """JEPA's, and the decoder on all kept tokens, per mask."""
        decoder = head_flops(self.sizes.decoder, self.count_tokens(size)[0], self.sizes.mlp)
        return super().flops_per_sample(size) + self.config.mask_sets * TRAINED * decoder
