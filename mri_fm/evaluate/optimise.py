"""Training of small networks on labelled units: losses of the three kinds of target, early stopping on held-out units.

Axes: S units, K outputs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mri_fm.evaluate.splits import grouped_folds
from mri_fm.evaluate.target import Floats, Ints, Target

VALIDATION_PARTS = 4  # a quarter of the training groups chooses the epoch


@dataclass(frozen=True)
class Schedule:
    """How a network is trained."""

    epochs: int = 60
    patience: int = 10  # epochs without improvement after which training stops
    batch: int = 16
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warmup: float = 0.0  # of the epochs, linear


def held_out(target: Target, group_S: Ints, *, seed: int, index: int) -> Ints:
    """The units that choose the epoch: one of `VALIDATION_PARTS` folds, or all units where there is but one group."""
    groups = len(np.unique(group_S))
    if groups < 2:
        return np.arange(len(group_S))
    return np.flatnonzero(grouped_folds(target.strata, group_S, min(VALIDATION_PARTS, groups), seed=seed, index=index) == 0)


@torch.no_grad()
def initialise(network: nn.Module, rng: np.random.Generator) -> None:
    """Normal weights of variance 1/fan-in, biases 0."""
    for parameter in network.parameters():
        if parameter.ndim >= 2:
            fan_in = parameter[0].numel()
            parameter.copy_(torch.from_numpy(rng.standard_normal(tuple(parameter.shape))) * fan_in**-0.5)
    for layer in network.modules():
        if isinstance(layer, nn.Linear | nn.Conv3d) and layer.bias is not None:
            layer.bias.zero_()


def target_loss(output_SK: Tensor, target: Target, scale: tuple[float, float]) -> Tensor:
    """Mean cross-entropy, squared error of the standardised value, or Cox's negative log partial likelihood per event.

    Args:
        output_SK: logits, standardised values or log hazards.
        target: of these units.
        scale: mean and standard deviation of the training values.
    """
    output_SK = output_SK.float()
    if target.kind == "classification":
        return F.cross_entropy(output_SK, torch.from_numpy(target.labels).to(output_SK.device))
    value_S = torch.from_numpy(target.value_S).to(output_SK)
    if target.kind == "regression":
        return F.mse_loss(output_SK[:, 0], (value_S - scale[0]) / scale[1])
    event_S = torch.from_numpy(target.event_S).to(output_SK.device)
    at_risk_SS = value_S[None, :] >= value_S[:, None]
    sum_S = output_SK[:, 0].expand_as(at_risk_SS).masked_fill(~at_risk_SS, -torch.inf).logsumexp(dim=1)
    return ((sum_S - output_SK[:, 0]) * event_S).sum() / event_S.sum().clamp(min=1)


def learn(
    network: nn.Module,
    inputs: Sequence[Tensor],
    target: Target,
    held: Ints,
    rng: np.random.Generator,
    schedule: Schedule = Schedule(),
    optimizer: torch.optim.Optimizer | None = None,
    prepare: Callable[[Tensor], Tensor] = lambda x: x,
) -> None:
    """Fit by AdamW and leave the network with the weights of the epoch that was best on the held-out units.

    Args:
        network: called with a batch of each of `inputs`.
        inputs: tensors whose first axis is that of all units.
        target: labels of all units.
        held: units that choose the epoch; the others are learned (all, where all are held out).
        rng: orders the batches.
        schedule: rates and length.
        optimizer: another one than AdamW over all parameters; its groups' rates are scaled by the warm-up.
        prepare: applied to each input of a batch, for instance to move it to a device.
    """
    rows = np.setdiff1d(np.arange(len(target)), held)
    rows = rows if len(rows) else held
    scale = value_scale(target)
    if optimizer is None:
        optimizer = torch.optim.AdamW(network.parameters(), schedule.learning_rate, weight_decay=schedule.weight_decay)
    peaks = [group["lr"] for group in optimizer.param_groups]
    best_loss, best_state, stale = float("inf"), copy.deepcopy(network.state_dict()), 0
    for epoch in range(schedule.epochs):
        warm = min(1.0, (epoch + 1) / max(1.0, schedule.warmup * schedule.epochs))
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * warm
        _epoch(network, inputs, target, rows[rng.permutation(len(rows))], scale, schedule.batch, optimizer, prepare)
        loss = _held_loss(network, inputs, target, held, scale, prepare)
        stale = 0 if loss < best_loss else stale + 1
        if loss < best_loss:
            best_loss, best_state = loss, copy.deepcopy(network.state_dict())
        if stale == schedule.patience:
            break
    network.load_state_dict(best_state)
    network.eval()


def _epoch(
    network: nn.Module, inputs: Sequence[Tensor], target: Target, order: Ints, scale: tuple[float, float], batch: int,
    optimizer: torch.optim.Optimizer, prepare: Callable[[Tensor], Tensor],
) -> None:  # fmt: skip
    network.train()
    for first in range(0, len(order), batch):
        rows = order[first : first + batch]
        optimizer.zero_grad()
        target_loss(network(*(prepare(x[torch.from_numpy(rows)]) for x in inputs)), target[rows], scale).backward()
        optimizer.step()


@torch.no_grad()
def _held_loss(
    network: nn.Module, inputs: Sequence[Tensor], target: Target, held: Ints, scale: tuple[float, float],
    prepare: Callable[[Tensor], Tensor],
) -> float:  # fmt: skip
    network.eval()
    return float(target_loss(_outputs(network, [x[torch.from_numpy(held)] for x in inputs], prepare), target[held], scale))


def _outputs(network: nn.Module, inputs: Sequence[Tensor], prepare: Callable[[Tensor], Tensor]) -> Tensor:
    parts = [network(*map(prepare, batch)).float().cpu() for batch in zip(*(x.split(16) for x in inputs), strict=True)]
    return torch.cat(parts)


@torch.no_grad()
def scores(
    network: nn.Module, inputs: Sequence[Tensor], target: Target, prepare: Callable[[Tensor], Tensor] = lambda x: x
) -> Floats:
    """Class probabilities, values or log hazards of units by a network that has learned `target`."""
    output_SK = _outputs(network.eval(), inputs, prepare).double()
    if target.kind == "classification":
        return output_SK.softmax(dim=1).numpy()
    mean, deviation = value_scale(target) if target.kind == "regression" else (0.0, 1.0)
    return (output_SK * deviation + mean).numpy()


def value_scale(target: Target) -> tuple[float, float]:
    """Mean and standard deviation of a regression's values; (0, 1) for other kinds."""
    return (float(target.value_S.mean()), float(target.value_S.std()) or 1.0) if target.kind == "regression" else (0.0, 1.0)
