"""JEPA + SIGReg: JEPA kept from collapse by asking its features to be an isotropic Gaussian.

    L = L_jepa + w · T,  T the mean Epps-Pulley distance of random slices to N(0, 1);  w = 1

Reference: Balestriero & LeCun, LeJEPA, arXiv 2511.08544; `mri_fm.losses.sigreg` has the equations. LeJEPA regularises one
vector per view and needs no teacher; here token slots take the place of views and the teacher stays, so that VCR and SIGReg
differ in the regulariser alone. LeJEPA's λ over n samples is w = n·λ/(1 − λ): 0.05 and a global micro-batch of 19 are w = 1.
Samples of a micro-step share one mask, as in `jepa_vcr`; statistics are those of one micro-step over all ranks.

    import torch
    from mri_fm.inputs import Inputs
    from mri_fm.model_config import HeadConfig, ModelConfig
    from mri_fm.objectives.jepa_sigreg import JEPASIGReg

    model = ModelConfig(width=48, depth=2, heads=3, predictor=HeadConfig(width=48, depth=1, heads=3))
    objective = JEPASIGReg(JEPASIGReg.Config(), model, size=(16, 16, 16), seed=0)
    volumes = torch.randn(2, 1, 16, 16, 16)
    loss, metrics = objective(Inputs(volumes, torch.arange(2), 0), {})
    loss.backward()
    print(metrics["loss_prediction"], metrics["loss_sigreg"])

Axes: B batch, C channels, Z/Y/X voxels.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from mri_fm.errors import UserError
from mri_fm.losses.sigreg import sliced_gaussianity
from mri_fm.objectives.jepa import JEPA, Features, JEPAConfig


@dataclass
class JEPASIGRegConfig(JEPAConfig):
    """Options of `JEPASIGReg`."""

    name: str = "jepa_sigreg"
    sigreg_weight: float = 1.0  # 0: the regulariser is not computed
    slices: int = 64  # random directions of a step
    shared_mask: bool = True  # each token slot over the batch; false: all tokens of all samples as one distribution

    def __post_init__(self) -> None:
        """Check what types cannot.

        Raises:
            UserError: no slice, or a negative weight.
        """
        super().__post_init__()
        self.require_weights("sigreg_weight")
        if self.slices < 1:
            raise UserError(f"objective.slices={self.slices} must be at least 1, for instance 64")

    def couples_samples(self) -> bool:
        """See `MaskedConfig.couples_samples`."""
        return self.sigreg_weight > 0 or super().couples_samples()


class JEPASIGReg(JEPA):
    """JEPA with sketched isotropic Gaussian regularization; see the top of this file."""

    Config = JEPASIGRegConfig
    config: JEPASIGRegConfig

    def regulariser(self, features: Features, group_position: int) -> tuple[Tensor | None, dict[str, Tensor]]:
        """The weighted term of the global micro-batch, not computed at weight 0; see `JEPA.regulariser`."""
        if self.config.sigreg_weight == 0:
            return None, {}
        regulariser = sliced_gaussianity(
            features.context_BVD,
            features.target_BMD,
            seed=self.seed,
            group_position=group_position,
            slices=self.config.slices,
            aligned=self.config.shared_mask,
            group=self.batch_group,
        )
        return self.config.sigreg_weight * regulariser, {"loss_sigreg": regulariser.detach()}
