"""How hard the spectral loss pulls at the weights, and whether it pulls with the voxel error.

Axes: B batch, Z/Y/X voxels, P parameters of a part of the network, laid end to end.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from mri_fm.inputs import Inputs
from mri_fm.losses.spectral import spectral_loss
from mri_fm.objectives.mae_spectral import MAESpectral

CUTOFF = 0.3
MODES = ("log_magnitude", "radial_log_power")
VOXELS = "voxel error"
PARTS = ("encoder", "decoder")
Gradients = dict[str, dict[str, Tensor]]
"""By loss and part of the network, (P,)."""
Pulls = dict[str, list[float]]
"""One value for each batch, by `ratio` and `cosine` of a mode and a part; `agreement` has one less."""


def ratio(mode: str, part: str) -> str:
    """The name of ‖∂L_spec/∂θ‖ / ‖∂L_mae/∂θ‖, before λ."""
    return f"ratio {mode} {part}"


def cosine(mode: str, part: str) -> str:
    """The name of the cosine of the two gradients on one batch; below 0 they pull against each other."""
    return f"cosine {mode} {part}"


def agreement(part: str) -> str:
    """The name of the cosine of the voxel error's gradients on two batches: what the cosines above are to be held against."""
    return f"agreement {part}"


def losses_of(objective: MAESpectral, batch: Inputs) -> dict[str, Tensor]:
    """The reconstruction loss and the spectral modes, as training has them."""
    pred, hidden = objective.predict(batch)
    truth, mosaic = batch.x_BCZYX, objective.mosaic(pred, batch.x_BCZYX, hidden)
    losses = {VOXELS: objective.reconstruction_loss(pred, truth, hidden)}
    for mode in MODES:
        window = objective.hidden_voxels(truth, hidden) if mode == "radial_log_power" else None
        losses[mode] = spectral_loss(mosaic, truth, cutoff=CUTOFF, mode=mode, hidden=window)
    return losses


def gradients_of(losses: Mapping[str, Tensor], parts: Mapping[str, nn.Module]) -> Gradients:
    """Each loss' gradient with respect to the trainable parameters of each part."""
    parameters = {part: [p for p in module.parameters() if p.requires_grad] for part, module in parts.items()}
    flat = [p for group in parameters.values() for p in group]
    found: Gradients = {}
    for name, loss in losses.items():
        each = torch.autograd.grad(loss, flat, retain_graph=True, materialize_grads=True)
        whole = torch.cat([gradient.flatten() for gradient in each])
        sizes = [sum(p.numel() for p in group) for group in parameters.values()]
        found[name] = dict(zip(parts, whole.split(sizes), strict=True))
    return found


def cosine_of(a_P: Tensor, b_P: Tensor) -> float:
    """In float64, since there are millions of parameters; NaN where a gradient is 0."""
    a_P, b_P = a_P.double(), b_P.double()
    return float(a_P @ b_P / (a_P.norm() * b_P.norm()))


def pulls(objective: MAESpectral, batches: Iterable[Inputs]) -> Pulls:
    """Ratios and cosines of every mode and part, batch by batch."""
    parts = {"encoder": objective.student, "decoder": objective.decoder}
    found: Pulls = {agreement(part): [] for part in parts}
    before: dict[str, Tensor] = {}
    for batch in batches:
        gradients = gradients_of(losses_of(objective, batch), parts)
        voxels = gradients.pop(VOXELS)
        for mode, of_mode in gradients.items():
            for part in parts:
                found.setdefault(ratio(mode, part), []).append(float(of_mode[part].norm() / voxels[part].norm()))
                found.setdefault(cosine(mode, part), []).append(cosine_of(of_mode[part], voxels[part]))
        for part, gradient in before.items():
            found[agreement(part)].append(cosine_of(gradient, voxels[part]))
        before = voxels
    return found
