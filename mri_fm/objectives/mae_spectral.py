"""SL-MAE: MAE plus a loss on the high frequencies of the reconstructed volume.

    r = truth at visible patches, prediction at hidden ones
    L = L_mae + λ(step) · L_spec(r, truth),  on every step;  λ rises linearly from 0 to 0.01

Reference: arXiv 2606.13315; `mri_fm.losses.spectral` has the equation of L_spec. The paper ramps over 20 of its 700 epochs
from epoch 5 on; 0.01 is its weight 1 on one step in ten, whose term and step share were both divided by ten.

With `background_loss=false` (see `mri_fm.objectives.mae`) r is the truth in the background too, so that the spectral term does
not ask for it either, and `radial_log_power` looks at the hidden foreground.

`spectral_gradient_ratio` is ‖∂L_spec/∂ŷ‖ / ‖∂L_mae/∂ŷ‖ over the predicted voxels ŷ of the micro-batch, before λ: times λ it
says which term steers. It comes from numbers that the losses have computed anyway, and costs no backward pass.

    import torch
    from mri_fm.inputs import Inputs
    from mri_fm.model_config import HeadConfig, ModelConfig
    from mri_fm.objectives.mae_spectral import MAESpectral

    model = ModelConfig(width=48, depth=2, heads=3, decoder=HeadConfig(width=48, depth=1, heads=3))
    objective = MAESpectral(MAESpectral.Config(), model, size=(16, 16, 16), seed=0)
    weights = objective.schedules(100)["spectral_weight"]
    volumes = torch.randn(2, 1, 16, 16, 16)
    loss, metrics = objective(Inputs(volumes, torch.arange(2), 0), {"spectral_weight": weights[-1]})
    loss.backward()

Axes: B batch, M hidden tokens, P voxels of a patch, C channels, Z/Y/X voxels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mri_fm.errors import UserError
from mri_fm.inputs import Inputs
from mri_fm.losses.precision import at_least_float32
from mri_fm.losses.spectral import Spectrum, fused_spectral_loss
from mri_fm.model_config import ModelConfig
from mri_fm.models.patches import Size3, patchify, take_tokens
from mri_fm.objectives.mae import MAE, MAEConfig, patch_statistics


@dataclass
class MAESpectralConfig(MAEConfig):
    """Options of `MAESpectral`."""

    name: str = "mae_spectral"
    spectral_weight: float = 0.01
    ramp_start: float = 5 / 700  # fractions of the steps between which the weight rises from 0
    ramp_end: float = 25 / 700
    mode: str = "log_magnitude"  # magnitude, complex, phase_aware, radial_log_power (over the hidden patches)
    cutoff: float = 0.3  # lower edge of the pass band
    cutoff_high: float | None = None  # upper edge; null: none
    softness: float = 0.0  # width of the edges; 0: hard
    units: str = "corner"  # of the cutoffs: corner (largest frequency 1), nyquist, cycles_per_mm (by each input's own spacing)
    shells: int = 32  # radial bins of radial_log_power

    def __post_init__(self) -> None:
        """Check what types cannot.

        Raises:
            UserError: an option of the spectrum out of range, a negative weight, or a ramp outside the run.
        """
        super().__post_init__()
        self.require_weights("spectral_weight")
        self.spectrum()
        if not 0.0 <= self.ramp_start <= self.ramp_end <= 1.0:
            raise UserError(
                f"objective.ramp_start={self.ramp_start} and ramp_end={self.ramp_end} are fractions of the run, no epochs: "
                "give 0 <= ramp_start <= ramp_end <= 1, for instance 0.007 and 0.036"
            )

    def spectrum(self, size: Size3 | None = None) -> Spectrum:
        """Mode and pass band; with `size` it is made sure that some frequency of such a volume passes.

        In cycles/mm that depends on each input's spacing: where none passes, its spectral term is 0.

        Raises:
            UserError: an option out of range, or an empty band.
        """
        try:
            spectrum = Spectrum(
                mode=self.mode,
                cutoff=self.cutoff,
                cutoff_high=self.cutoff_high,
                softness=self.softness,
                units=self.units,
                shells=self.shells,
            )
            if size is not None and self.units != "cycles_per_mm":
                spectrum.require_band(size)
        except ValueError as error:
            names = "mode, cutoff, cutoff_high, softness, units, shells"
            raise UserError(f"{error}; change one of objective.{{{names}}}") from error
        return spectrum


class MAESpectral(MAE):
    """Masked autoencoder with the spectral loss; see the top of this file."""

    Config = MAESpectralConfig
    config: MAESpectralConfig

    def __init__(self, config: MAESpectralConfig, model: ModelConfig, size: Size3, seed: int) -> None:
        super().__init__(config, model, size, seed)
        self.spectrum = config.spectrum()

    def check_size(self, size: Size3) -> None:
        """See `Objective.check_size`; some frequency of the size must lie in the pass band, too."""
        super().check_size(size)
        self.config.spectrum(size)

    def forward(self, inputs: Inputs, schedule: Mapping[str, float]) -> tuple[Tensor, dict[str, Tensor]]:
        """Both losses, mean over this rank's samples; see `Objective.forward`."""
        pred_BMP, hidden_BM = self.predict(inputs)
        x_BCZYX, weight_BMP = inputs.x_BCZYX, self.voxel_weight(inputs, hidden_BM)
        reconstruction = self.reconstruction_loss(pred_BMP, x_BCZYX, hidden_BM, weight_BMP)
        mosaic = self._counted(self.mosaic(pred_BMP, x_BCZYX, hidden_BM), x_BCZYX, inputs)
        window, spacing_B3 = self._window(inputs, hidden_BM), self._spacing(inputs)
        spectral, gradient = fused_spectral_loss(mosaic, x_BCZYX, self.spectrum, window, spacing_B3)
        metrics = {"loss_reconstruction": reconstruction.detach(), "loss_spectral": spectral.detach()}
        if mosaic.requires_grad:
            error = mosaic.detach() - at_least_float32(x_BCZYX)
            metrics["spectral_gradient_ratio"] = self._gradient_ratio(gradient, error, inputs, hidden_BM)
        return reconstruction + schedule["spectral_weight"] * spectral, metrics

    def _counted(self, volumes_BCZYX: Tensor, rest_BCZYX: Tensor | float, inputs: Inputs) -> Tensor:
        """Volumes with `rest` in place of the voxels that do not count."""
        if self.config.background_loss or inputs.foreground_BCZYX is None:
            return volumes_BCZYX
        return torch.where(inputs.foreground_BCZYX, volumes_BCZYX, rest_BCZYX)

    def _window(self, inputs: Inputs, hidden_BM: Tensor) -> Tensor | None:
        """The hidden voxels where the mode looks at them alone; per-bin modes need the whole mosaic."""
        if self.spectrum.mode != "radial_log_power":
            return None
        return self._counted(self.hidden_voxels(inputs.x_BCZYX, hidden_BM), 0.0, inputs)

    def _spacing(self, inputs: Inputs) -> Tensor | None:
        """The millimetres that frequencies are counted by; None: voxels."""
        return inputs.spacing_B3 if self.spectrum.units == "cycles_per_mm" else None

    @torch.no_grad()
    def _gradient_ratio(self, gradient_BCZYX: Tensor, error_BCZYX: Tensor, inputs: Inputs, hidden_BM: Tensor) -> Tensor:
        """Norm of the spectral gradient over that of the reconstruction loss, |ŷ − y|^(p−1) / n per predicted value."""
        both = (self._counted(gradient_BCZYX, 0.0, inputs), error_BCZYX)
        spectral_BMP, error_BMP = (take_tokens(patchify(v, self.student.patch), hidden_BM) for v in both)
        if self.config.patch_norm:
            truth_BMP = take_tokens(patchify(at_least_float32(inputs.x_BCZYX), self.student.patch), hidden_BM)
            std_BM1 = patch_statistics(truth_BMP)[1]
            spectral_BMP, error_BMP = spectral_BMP * std_BM1, error_BMP / std_BM1
        slope_BMP = error_BMP.abs_().pow_(self.config.power - 1)
        weight_BMP = self.voxel_weight(inputs, hidden_BM)
        if weight_BMP is None:
            reconstruction_BMP = slope_BMP.div_(slope_BMP.numel())
        else:
            count_B11 = weight_BMP.flatten(1).sum(1).clamp_min(1)[:, None, None]
            reconstruction_BMP = slope_BMP.mul_(weight_BMP).div_(count_B11 * len(slope_BMP))
        return spectral_BMP.norm() / reconstruction_BMP.norm().clamp_min(torch.finfo(error_BMP.dtype).tiny)

    def schedules(self, steps: int) -> dict[str, np.ndarray]:
        """The key "spectral_weight": λ, where step s (from 0) stands at (s + 1) / steps."""
        start, end = self.config.ramp_start, self.config.ramp_end
        done = np.arange(1, steps + 1) / steps
        ramp = np.clip((done - start) / (end - start), 0.0, 1.0) if end > start else (done >= start).astype(np.float64)
        return {"spectral_weight": self.config.spectral_weight * ramp}
