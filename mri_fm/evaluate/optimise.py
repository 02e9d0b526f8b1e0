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

from mri_fm.evaluate.features import Features
from mri_fm.evaluate.target import Floats, Ints, Target
from mri_fm.evaluate.training import Fitted, TrainingPart


@dataclass(frozen=True)
class Schedule:
    """How a network is trained."""

    epochs: int = 60
    patience: int = 10  # epochs without improvement after which training stops
    batch: int = 16
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warmup: float = 0.0  # of the epochs, linear


def best_device() -> torch.device:
    """Where a network of many volumes is trained."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


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


@dataclass(frozen=True, eq=False)
class Examples:
    """Units as a network sees them: tensors whose first axis is theirs, and their labels."""

    inputs: tuple[Tensor, ...]
    target: Target

    def __getitem__(self, rows: Ints) -> Examples:
        """Some of them."""
        return Examples(tuple(x[torch.from_numpy(rows)] for x in self.inputs), self.target[rows])


def fit_network(
    network: nn.Module,
    part: TrainingPart,
    test: Features,
    inputs_of: Callable[[Features], tuple[Tensor, ...]],
    rng: np.random.Generator,
    schedule: Schedule,
    optimizer: torch.optim.Optimizer | None = None,
) -> Fitted:
    """Train a network on a part, which also chooses the epoch, and score the test units.

    Args:
        network: called with a batch of each input.
        part: what is learned.
        test: seen once, at the end.
        inputs_of: the network's inputs from features.
        rng, schedule, optimizer: as in `learn`.
    """
    known, held = Examples(inputs_of(part.features), part.target), part.choosing()
    learn(network, known, held, rng, schedule, optimizer)
    test_SK = scores(network, inputs_of(test), part.target)
    return Fitted(test_SK, scores(network, known[held].inputs, part.target), held)


def learn(
    network: nn.Module,
    known: Examples,
    held: Ints,
    rng: np.random.Generator,
    schedule: Schedule = Schedule(),
    optimizer: torch.optim.Optimizer | None = None,
) -> None:
    """Fit by AdamW and leave the network with the weights of the epoch that was best on the held-out units.

    Args:
        network: called with a batch of each input, moved to where its parameters are.
        known: all units.
        held: units that choose the epoch; the others are learned (all, where all are held out).
        rng: orders the batches.
        schedule: rates and length.
        optimizer: another one than AdamW over all parameters; its groups' rates are scaled by the warm-up.
    """
    rows = np.setdiff1d(np.arange(len(known.target)), held)
    rows = rows if len(rows) else held
    scale = value_scale(known.target)
    if optimizer is None:
        optimizer = torch.optim.AdamW(network.parameters(), schedule.learning_rate, weight_decay=schedule.weight_decay)
    peaks = [group["lr"] for group in optimizer.param_groups]
    best_loss, best_state, stale = float("inf"), copy.deepcopy(network.state_dict()), 0
    for epoch in range(schedule.epochs):
        warm = min(1.0, (epoch + 1) / max(1.0, schedule.warmup * schedule.epochs))
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * warm
        network.train()
        order = rows[rng.permutation(len(rows))]
        for first in range(0, len(order), schedule.batch):
            _step(network, known[order[first : first + schedule.batch]], scale, optimizer)
        loss = _loss(network, known[held], scale)
        stale = 0 if loss < best_loss else stale + 1
        if loss < best_loss:
            best_loss, best_state = loss, copy.deepcopy(network.state_dict())
        if stale == schedule.patience:
            break
    network.load_state_dict(best_state)
    network.eval()


def _step(network: nn.Module, batch: Examples, scale: tuple[float, float], optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    target_loss(network(*_beside(network, batch.inputs)), batch.target, scale).backward()
    optimizer.step()


@torch.no_grad()
def _loss(network: nn.Module, held: Examples, scale: tuple[float, float]) -> float:
    return float(target_loss(_outputs(network.eval(), held.inputs), held.target, scale))


def _beside(network: nn.Module, inputs: Sequence[Tensor]) -> list[Tensor]:
    """The inputs where the network's parameters are."""
    device = next(network.parameters()).device
    return [x.to(device) for x in inputs]


def _outputs(network: nn.Module, inputs: Sequence[Tensor]) -> Tensor:
    batches = zip(*(x.split(16) for x in inputs), strict=True)
    return torch.cat([network(*_beside(network, batch)).float().cpu() for batch in batches])


@torch.no_grad()
def scores(network: nn.Module, inputs: Sequence[Tensor], target: Target) -> Floats:
    """Class probabilities, values or log hazards of units by a network that has learned `target`."""
    output_SK = _outputs(network.eval(), inputs).double()
    if target.kind == "classification":
        return output_SK.softmax(dim=1).numpy()
    mean, deviation = value_scale(target) if target.kind == "regression" else (0.0, 1.0)
    return (output_SK * deviation + mean).numpy()


def value_scale(target: Target) -> tuple[float, float]:
    """Mean and standard deviation of a regression's values; (0, 1) for other kinds."""
    return (float(target.value_S.mean()), float(target.value_S.std()) or 1.0) if target.kind == "regression" else (0.0, 1.0)
