"""MAE: hide most patches, encode the rest, reconstruct the voxels of the hidden ones.

    L = mean over hidden voxels of |ŷ − y|^p / p,  p = 2;  y are the z-scored voxels themselves, or with `patch_norm` each
    patch's voxels with its own mean and standard deviation taken out (He et al., section 4.1)

With `background_loss=false` only hidden voxels of the foreground count: what was defaced, padded or never scanned is stored as
0 in the corpus, like air, and nothing tells them apart. nnssl (MIC-DKFZ) leaves out anonymised regions by masks of their own.

Reference: He et al., Masked Autoencoders Are Scalable Vision Learners, CVPR 2022; in 3D arXiv 2606.13315.

    import torch
    from mri_fm.inputs import Inputs
    from mri_fm.model_config import HeadConfig, ModelConfig
    from mri_fm.objectives.mae import MAE

    model = ModelConfig(width=48, depth=2, heads=3, decoder=HeadConfig(width=48, depth=1, heads=3))
    mae = MAE(MAE.Config(), model, size=(16, 16, 16), seed=0)
    volumes = torch.randn(2, 1, 16, 16, 16)
    loss, metrics = mae(Inputs(volumes, torch.arange(2), 0), {})
    loss.backward()
    print(metrics["loss_reconstruction"])

Axes: B batch, N tokens, V visible tokens, M hidden tokens, P voxels of a patch, C channels, Z/Y/X voxels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mri_fm.errors import UserError
from mri_fm.inputs import Inputs
from mri_fm.losses.precision import at_least_float32, full_precision
from mri_fm.model_config import ModelConfig
from mri_fm.models.flops import TRAINED, encoder_flops, head_flops
from mri_fm.models.heads import decoder
from mri_fm.models.patches import Size3, patchify, take_tokens, unpatchify
from mri_fm.models.vit import as_size3
from mri_fm.objectives.base import Mask, MaskedConfig, Objective, sample_means


@dataclass
class MAEConfig(MaskedConfig):
    """Options of `MAE`."""

    name: str = "mae"
    power: float = 2.0  # p of the reconstruction loss
    patch_norm: bool = False  # predict each patch without its own mean and standard deviation
    background_loss: bool = True  # false: hidden voxels of the background (air, padding, defaced: all stored as 0) do not count

    def __post_init__(self) -> None:
        """Check what types cannot.

        Raises:
            UserError: a power below 1, whose gradient grows beyond all bounds near a perfect prediction.
        """
        super().__post_init__()
        if not 1.0 <= self.power < math.inf:
            raise UserError(f"objective.power={self.power} must be 1 or more, for instance 2")


class MAE(Objective):
    """Masked autoencoder; see the top of this file."""

    Config = MAEConfig
    config: MAEConfig

    def __init__(self, config: MAEConfig, model: ModelConfig, size: Size3, seed: int) -> None:
        super().__init__(config, model, size, seed)
        self.decoder = decoder(model, self.student)

    def forward(self, inputs: Inputs, schedule: Mapping[str, float]) -> tuple[Tensor, dict[str, Tensor]]:
        """Reconstruction loss, mean over this rank's samples; see `Objective.forward`."""
        pred_BMP, hidden_BM = self.predict(inputs)
        loss = self.reconstruction_loss(pred_BMP, inputs.x_BCZYX, hidden_BM, self.voxel_weight(inputs, hidden_BM))
        return loss, {"loss_reconstruction": loss.detach()}

    def flops_per_sample(self, size: Size3 | None = None) -> float:
        """The student on visible tokens, the decoder on all kept ones."""
        kept, visible = self.count_tokens(size)
        return TRAINED * (encoder_flops(self.sizes, visible) + head_flops(self.sizes.decoder, kept, self.sizes.mlp))

    def predict(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """Predicted patches (B, M, P) and the indices hidden_BM where they belong."""
        mask = self.mask(inputs)
        return self.decode(inputs, mask, self.encode(inputs, mask)), mask.hidden_BM

    def decode(self, inputs: Inputs, mask: Mask, context_BVD: Tensor) -> Tensor:
        """Patches (B, M, P) at the hidden tokens, from the encoder's visible ones."""
        return self.decoder(context_BVD, mask.visible_BV, mask.hidden_BM, grid=mask.grid, spacing_B3=inputs.spacing_B3)

    def voxel_weight(self, inputs: Inputs, hidden_BM: Tensor) -> Tensor | None:
        """Which hidden voxels count, bool (B, M, P); None: all do."""
        if self.config.background_loss:
            return None
        return take_tokens(self.foreground_patches(inputs), hidden_BM)

    def reconstruction_loss(
        self, pred_BMP: Tensor, x_BCZYX: Tensor, hidden_BM: Tensor, weight_BMP: Tensor | None = None
    ) -> Tensor:
        """Mean |ŷ − y|^p / p over the hidden voxels of each sample (that count), then over samples, in float32 at least."""
        return self._sample_errors(pred_BMP, x_BCZYX, hidden_BM, weight_BMP).mean() / self.config.power

    @torch.no_grad()
    def sample_losses(self, inputs: Inputs) -> Tensor:
        """The reconstruction loss; see `Objective.sample_losses`."""
        pred_BMP, hidden_BM = self.predict(inputs)
        error_B = self._sample_errors(pred_BMP, inputs.x_BCZYX, hidden_BM, self.voxel_weight(inputs, hidden_BM))
        return error_B / self.config.power

    def _sample_errors(self, pred_BMP: Tensor, x_BCZYX: Tensor, hidden_BM: Tensor, weight_BMP: Tensor | None) -> Tensor:
        """Mean |ŷ − y|^p of each sample, (B,)."""
        with full_precision(x_BCZYX.device):
            target_BMP = take_tokens(patchify(at_least_float32(x_BCZYX), self.student.patch), hidden_BM)
            if self.config.patch_norm:
                mean_BM1, std_BM1 = patch_statistics(target_BMP)
                target_BMP = (target_BMP - mean_BM1) / std_BM1
            error = (at_least_float32(pred_BMP) - target_BMP).abs()
            return sample_means(error.pow(self.config.power), weight_BMP)

    def mosaic(self, pred_BMP: Tensor, x_BCZYX: Tensor, hidden_BM: Tensor) -> Tensor:
        """The truth at visible and dropped patches, the prediction at hidden ones: voxels (B, C, Z, Y, X), float32 at least.

        With `patch_norm` a hidden patch gets its true mean and standard deviation back, as the loss never asked for them.
        """
        truth_BNP = patchify(at_least_float32(x_BCZYX), self.student.patch)
        if self.config.patch_norm:
            mean_BM1, std_BM1 = patch_statistics(take_tokens(truth_BNP, hidden_BM))
            pred_BMP = at_least_float32(pred_BMP) * std_BM1 + mean_BM1
        index = hidden_BM[:, :, None].expand(-1, -1, truth_BNP.shape[2])
        patches_BNP = truth_BNP.scatter(1, index, pred_BMP.to(truth_BNP.dtype))
        return unpatchify(patches_BNP, self.student.patch, as_size3(x_BCZYX.shape[2:]))

    @torch.no_grad()
    def reconstruct(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """For pictures: the mosaic, and which of its voxels were hidden (bool), both (B, C, Z, Y, X)."""
        pred_BMP, hidden_BM = self.predict(inputs)
        x_BCZYX = inputs.x_BCZYX
        return self.mosaic(pred_BMP, x_BCZYX, hidden_BM), self.hidden_voxels(x_BCZYX, hidden_BM).bool()

    def hidden_voxels(self, x_BCZYX: Tensor, hidden_BM: Tensor) -> Tensor:
        """1 at the voxels of hidden patches, 0 elsewhere; like x."""
        ones_BNP = torch.zeros_like(patchify(x_BCZYX, self.student.patch))
        ones_BNP.scatter_(1, hidden_BM[:, :, None].expand(-1, -1, ones_BNP.shape[2]), 1.0)
        return unpatchify(ones_BNP, self.student.patch, as_size3(x_BCZYX.shape[2:]))


def patch_statistics(patches_BMP: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each patch (B, M, 1); the deviation of a constant patch is 1e-3, not 0."""
    variance_BM1, mean_BM1 = torch.var_mean(patches_BMP, dim=2, keepdim=True, correction=0)
    return mean_BM1, (variance_BM1 + 1e-6).sqrt()
