"""The baseline without pretraining: a small 3D network that learns the task's own volumes from scratch.

Axes: S units, C contrasts of a unit, Z/Y/X voxels, D width, K outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mri_fm.evaluate.draws import Draw, drawer
from mri_fm.evaluate.features import Features
from mri_fm.evaluate.linear import Fitted
from mri_fm.evaluate.optimise import Schedule, held_out, initialise, learn, scores
from mri_fm.evaluate.target import Ints, Target

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


def fit_supervised(
    train: Features, target: Target, group_S: Ints, test: Features, *, held: Ints | None = None, seed: int, index: int
) -> Fitted:
    """Train on volumes (S, C, Z, Y, X); a group-disjoint quarter of the training units chooses the epoch.

    Args:
        train: volumes of the training (and validation) units.
        target: their labels.
        group_S: their groups.
        test: volumes of the test units.
        held: numbers of validation units in the training part; None: a quarter is drawn.
        seed, index: key the quarter, the weights and the order of batches.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    held = held_out(target, group_S, seed=seed, index=index) if held is None or not len(held) else held
    rng = drawer(seed, Draw.SUPERVISED, index)
    network = ConvolutionalNetwork(target.outputs)
    initialise(network, rng)
    network = network.to(device)
    inputs = (torch.as_tensor(train.value_SC), torch.from_numpy(train.present_SC))

    def move(x: Tensor) -> Tensor:
        return x.to(device)

    learn(network, inputs, target, held, rng, SCHEDULE, prepare=move)
    held_inputs = [x[torch.from_numpy(held)] for x in inputs]
    test_SK = scores(network, (torch.as_tensor(test.value_SC), torch.from_numpy(test.present_SC)), target, move)
    return Fitted(test_SK, scores(network, held_inputs, target, move), held)
