"""The baseline without pretraining: a small 3D network that learns the task's own volumes from scratch.

Axes: S units, C contrasts of a unit, Z/Y/X voxels, D width, K outputs.
"""

from __future__ import annotations

from torch import Tensor, nn

from mri_fm.evaluate.draws import Draw, drawer
from mri_fm.evaluate.features import Features, tensors
from mri_fm.evaluate.optimise import Schedule, best_device, fit_network, initialise
from mri_fm.evaluate.training import Fitted, TrainingPart

WIDTHS = (8, 16, 32, 64)
SCHEDULE = Schedule(epochs=30, patience=8, batch=8, learning_rate=2e-3, weight_decay=0.01)


class ConvolutionalNetwork(nn.Module):
    """Four strided convolutions of 3³ with group norm and GELU, mean over positions and contrasts, a linear head."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, width in zip((1, *WIDTHS[:-1]), WIDTHS, strict=True):
            layers += [nn.Conv3d(before, width, 3, stride=2, padding=1), nn.GroupNorm(4, width), nn.GELU()]
        self.body, self.head = nn.Sequential(*layers), nn.Linear(WIDTHS[-1], outputs)

    def forward(self, x_SCZYX: Tensor, present_SC: Tensor) -> Tensor:
        """Outputs (S, K) from volumes and which contrasts there are."""
        volume_TZYX = x_SCZYX[present_SC][:, None].to(self.head.weight.dtype)
        feature_SCD = x_SCZYX.new_zeros(*present_SC.shape, WIDTHS[-1], dtype=self.head.weight.dtype)
        feature_SCD[present_SC] = self.body(volume_TZYX).mean(dim=(2, 3, 4))
        return self.head(feature_SCD.sum(dim=1) / present_SC.sum(dim=1, keepdim=True))


def fit_supervised(part: TrainingPart, test: Features) -> Fitted:
    """Train on volumes (S, C, Z, Y, X); a group-disjoint quarter of the training units chooses the epoch."""
    rng = drawer(part.seed, Draw.SUPERVISED, part.index)
    network = ConvolutionalNetwork(part.target.outputs)
    initialise(network, rng)
    return fit_network(network.to(best_device()), part, test, tensors, rng, SCHEDULE)
