"""SL-MAE: MAE plus a loss on the high frequencies of the reconstructed volume.

    r = truth at visible patches, prediction at hidden ones
    L = L_mae + λ(step) · L_spec(r, truth),  on every step;  λ rises linearly from 0 to 0.01

Reference: arXiv 2606.13315; `mri_fm.losses.spectral` has the equation of L_spec. The paper ramps over 20 of its 700 epochs
from epoch 5 on; 0.01 is its weight 1 on one step in ten, whose term and step share were both divided by ten.

    import torch
    from mri_fm.config import HeadConfig, ModelConfig
    from mri_fm.objectives.mae_spectral import MAESpectral

    model = ModelConfig(width=48, depth=2, heads=3, decoder=HeadConfig(width=48, depth=1, heads=3))
    objective = MAESpectral(MAESpectral.Config(), model, size=(16, 16, 16), seed=0)
    weights = objective.schedules(100)["spectral_weight"]
    volumes = torch.randn(2, 1, 16, 16, 16)
    loss, metrics = objective(volumes, torch.arange(2), 0, {"spectral_weight": weights[-1]})
    loss.backward()

Axes: B batch, M hidden tokens, P voxels of a patch, C channels, Z/Y/X voxels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from mri_fm.errors import UserError
from mri_fm.losses.spectral import MODES, spectral_loss
from mri_fm.objectives.mae import MAE, MAEConfig


@dataclass
class MAESpectralConfig(MAEConfig):
    """Options of `MAESpectral`."""

    name: str = "mae_spectral"
    spectral_weight: float = 0.01
    ramp_start: float = 5 / 700  # fractions of the steps between which the weight rises from 0
    ramp_end: float = 25 / 700
    cutoff: float = 0.3  # of the high-pass, in units of the largest frequency
    mode: str = "log_magnitude"  # magnitude, complex

    def __post_init__(self) -> None:
        """Check what types cannot.

        Raises:
            UserError: an unknown mode, or a ramp that ends before it starts.
        """
        super().__post_init__()
        if self.mode not in MODES:
            raise UserError(f"objective.mode={self.mode} is not one of {', '.join(MODES)}")
        if not 0.0 <= self.ramp_start <= self.ramp_end:
            raise UserError(f"objective.ramp_end={self.ramp_end} must not come before ramp_start={self.ramp_start}")


class MAESpectral(MAE):
    """Masked autoencoder with the spectral loss; see the top of this file."""

    Config = MAESpectralConfig
    config: MAESpectralConfig

    def forward(
        self, x_BCZYX: Tensor, positions_B: Tensor, group_position: int, schedule: Mapping[str, float]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Both losses, mean over this rank's samples; see `Objective.forward`."""
        pred_BMP, hidden_BM = self.predict(x_BCZYX, positions_B, group_position)
        reconstruction = self.reconstruction_loss(pred_BMP, x_BCZYX, hidden_BM)
        mosaic = self.mosaic(pred_BMP, x_BCZYX, hidden_BM)
        spectral = spectral_loss(mosaic, x_BCZYX, cutoff=self.config.cutoff, mode=self.config.mode)
        metrics = {"loss_reconstruction": reconstruction.detach(), "loss_spectral": spectral.detach()}
        return reconstruction + schedule["spectral_weight"] * spectral, metrics

    def schedules(self, steps: int) -> dict[str, np.ndarray]:
        """The key "spectral_weight": λ, where step s (from 0) stands at (s + 1) / steps."""
        start, end = self.config.ramp_start, self.config.ramp_end
        done = np.arange(1, steps + 1) / steps
        ramp = np.clip((done - start) / (end - start), 0.0, 1.0) if end > start else (done >= start).astype(np.float64)
        return {"spectral_weight": self.config.spectral_weight * ramp}
