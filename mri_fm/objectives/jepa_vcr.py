"""JEPA + VCR: JEPA kept from collapse by the variance and covariance of its features.

    L = L_jepa + 0.25 · (1.0 · L_var + 0.1 · L_cov)

Reference: arXiv 2606.13315, after VICReg (Bardes et al., ICLR 2022); `mri_fm.losses.vcr` has the equations. L_var compares
the same token slot over the batch, so all samples of a global micro-step share one mask. Statistics are those of one
micro-step over all ranks: 1 × 48 samples and 2 × 24 accumulated ones are not the same here.

    import torch
    from mri_fm.inputs import Inputs
    from mri_fm.model_config import HeadConfig, ModelConfig
    from mri_fm.objectives.jepa_vcr import JEPAVCR

    model = ModelConfig(width=48, depth=2, heads=3, predictor=HeadConfig(width=48, depth=1, heads=3))
    objective = JEPAVCR(JEPAVCR.Config(), model, size=(16, 16, 16), seed=0)
    volumes = torch.randn(2, 1, 16, 16, 16)
    loss, metrics = objective(Inputs(volumes, torch.arange(2), 0), {})
    loss.backward()
    print(metrics["loss_prediction"], metrics["loss_variance"], metrics["loss_covariance"])

Axes: B batch, C channels, Z/Y/X voxels.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from mri_fm.losses.vcr import variance_covariance
from mri_fm.objectives.jepa import JEPA, Features, JEPAConfig


@dataclass
class JEPAVCRConfig(JEPAConfig):
    """Options of `JEPAVCR`."""

    name: str = "jepa_vcr"
    vcr_weight: float = 0.25  # 0: the regulariser is not computed
    variance_weight: float = 1.0
    covariance_weight: float = 0.1
    gamma: float = 1.0  # standard deviation that the variance term asks for
    shared_mask: bool = True  # variance over the batch per token slot; false: over all tokens of all samples

    def __post_init__(self) -> None:
        """Check what types cannot.

        Raises:
            UserError: a weight or standard deviation below 0.
        """
        super().__post_init__()
        self.require_weights("vcr_weight", "variance_weight", "covariance_weight", "gamma")

    def couples_samples(self) -> bool:
        """See `MaskedConfig.couples_samples`."""
        return self.vcr_weight > 0 or super().couples_samples()


class JEPAVCR(JEPA):
    """JEPA with variance-covariance regularisation; see the top of this file."""

    Config = JEPAVCRConfig
    config: JEPAVCRConfig

    def regulariser(self, features: Features, group_position: int) -> tuple[Tensor | None, dict[str, Tensor]]:
        """The weighted term of the global micro-batch, not computed at weight 0; see `JEPA.regulariser`."""
        if self.config.vcr_weight == 0:
            return None, {}
        variance, covariance = variance_covariance(
            features.context_BVD,
            features.target_BMD,
            gamma=self.config.gamma,
            aligned=self.config.shared_mask,
            group=self.batch_group,
        )
        metrics = {"loss_variance": variance.detach(), "loss_covariance": covariance.detach()}
        regulariser = self.config.variance_weight * variance + self.config.covariance_weight * covariance
        return self.config.vcr_weight * regulariser, metrics
