"""Fine-tuning the encoder with a task's labels: all of it, its last blocks, or low-rank updates.

Axes: S units, C contrasts of a unit, Z/Y/X voxels, B batch, N tokens, D width, R rank.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mri_fm.engine.setup import parameter_groups
from mri_fm.errors import UserError
from mri_fm.evaluate.attentive import AttentiveProbe
from mri_fm.evaluate.draws import Draw, drawer
from mri_fm.evaluate.features import Features, tensors
from mri_fm.evaluate.optimise import Schedule, best_device, fit_network, initialise
from mri_fm.evaluate.training import Fitted, TrainingPart
from mri_fm.models.vit import VisionTransformer

SCHEDULE = Schedule(epochs=20, patience=6, batch=8, learning_rate=5e-4, weight_decay=0.05, warmup=0.1)
LAYER_DECAY = 0.6  # REFERENCE: the paper's probe, fine-tuned
LORA_RANK, LORA_SCALE = 8, 2.0
LORA_TARGETS = re.compile(r"blocks\.\d+\.attention\.(qkv|out)$")


@dataclass(frozen=True)
class Tuning:
    """What of the encoder learns.

    Attributes:
        mode: full, partial (the last `blocks` and the final norm), lora (updates of rank `LORA_RANK` of the attention).
        blocks: of partial.
    """

    mode: str
    blocks: int = 0

    @classmethod
    def parse(cls, text: str) -> Tuning:
        """`full`, `partial:2` or `lora`.

        Raises:
            UserError: anything else.
        """
        mode, _, blocks = text.partition(":")
        if mode in ("full", "lora") and not blocks:
            return cls(mode)
        if mode == "partial" and blocks.isdecimal() and int(blocks) > 0:
            return cls(mode, int(blocks))
        raise UserError(f"--finetune {text}: give full, partial:BLOCKS (for instance partial:2) or lora")

    def __str__(self) -> str:
        return f"{self.mode}:{self.blocks}" if self.blocks else self.mode


class LowRank(nn.Module):
    """A frozen linear layer plus an update of rank R that starts at zero (Hu et al., ICLR 2022, §4.1)."""

    def __init__(self, layer: nn.Linear, rank: int = LORA_RANK, scale: float = LORA_SCALE) -> None:
        super().__init__()
        self.layer, self.scale = layer, scale
        self.down = nn.Linear(layer.in_features, rank, bias=False)
        self.up = nn.Linear(rank, layer.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x_BND: Tensor) -> Tensor:
        """The layer, and the update."""
        return self.layer(x_BND) + self.scale * self.up(self.down(x_BND))


class Tuned(nn.Module):
    """The encoder with an attentive probe behind it."""

    def __init__(self, encoder: VisionTransformer, heads: int, outputs: int, tuning: Tuning) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(encoder)
        self.encoder.drop_path = 0.0  # which is drawn from positions in pretraining
        self.probe = AttentiveProbe(encoder.width, heads, outputs)
        for parameter in self.encoder.parameters():
            parameter.requires_grad_(False)
        for parameter in _learning(self.encoder, tuning):
            parameter.requires_grad_(True)

    def forward(self, x_SCZYX: Tensor, present_SC: Tensor, spacing_SC3: Tensor) -> Tensor:
        """Outputs (S, K) from volumes, which contrasts there are, and their voxels' spacing."""
        token_TND = self.encoder(x_SCZYX[present_SC][:, None].float(), spacing_B3=spacing_SC3[present_SC].float())
        token_SCND = token_TND.new_zeros(*present_SC.shape, *token_TND.shape[1:])
        token_SCND[present_SC] = token_TND
        return self.probe(token_SCND, present_SC)


def _learning(encoder: VisionTransformer, tuning: Tuning) -> Iterator[nn.Parameter]:
    """The parameters of the encoder that learn; for lora its attention layers are wrapped first."""
    if tuning.mode == "full":
        yield from encoder.parameters()
    elif tuning.mode == "partial":
        for block in list(encoder.blocks)[-tuning.blocks :]:
            yield from block.parameters()
        yield from encoder.norm.parameters()
    else:
        for name, layer in list(encoder.named_modules()):
            if LORA_TARGETS.fullmatch(name) and isinstance(layer, nn.Linear):
                update = LowRank(layer)
                parent, _, child = name.rpartition(".")
                setattr(encoder.get_submodule(parent), child, update)
                yield from (*update.down.parameters(), *update.up.parameters())


def layer_rates(network: Tuned, schedule: Schedule, decay: float = LAYER_DECAY) -> list[dict[str, Any]]:
    """AdamW's groups, as pretraining makes them: the rate falls by `decay` for each block further from the probe."""
    groups = parameter_groups(network.named_parameters(), decay, len(network.encoder.blocks), encoder="encoder")
    return [
        group
        | {
            "lr": schedule.learning_rate * group["lr_scale"],
            "weight_decay": schedule.weight_decay if group["decay"] else 0.0,
        }
        for group in groups
    ]


def fit_tuned(
    part: TrainingPart,
    test: Features,
    *,
    encoder: VisionTransformer,
    heads: int,
    tuning: Tuning,
    schedule: Schedule = SCHEDULE,
) -> Fitted:
    """Train encoder and probe; a group-disjoint quarter of the training units chooses the epoch.

    Args:
        part: what is learned: volumes (S, C, Z·Y·X + 3), their spacing behind them (`pack`).
        test: volumes of the test units.
        encoder: where training starts; it is copied.
        heads: of the probe.
        tuning: what learns.
        schedule: how long and how fast.
    """
    rng = drawer(part.seed, Draw.FINETUNE, part.index)
    network = Tuned(encoder, heads, part.target.outputs, tuning)
    initialise(network.probe, rng)
    for update in (module for module in network.modules() if isinstance(module, LowRank)):
        initialise(update.down, rng)
    network = network.to(best_device())
    optimizer = torch.optim.AdamW(layer_rates(network, schedule))
    batch = replace(schedule, batch=max(1, schedule.batch // part.features.present_SC.shape[1]))
    return fit_network(network, part, test, partial(unpack, size=encoder.size), rng, batch, optimizer)


def pack(volume_VZYX: Tensor, spacing_V3: Tensor) -> Tensor:
    """Volumes and their spacing in one row each, float16, so that they go through splits together."""
    return torch.cat([volume_VZYX.flatten(1).half(), spacing_V3.half()], dim=1)


def unpack(features: Features, size: tuple[int, int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Volumes (S, C, Z, Y, X), which contrasts there are (S, C), spacing (S, C, 3)."""
    row_SCF, present_SC = tensors(features)
    return row_SCF[..., :-3].unflatten(2, size), present_SC, row_SCF[..., -3:]
