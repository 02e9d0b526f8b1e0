"""What is looked at beside the loop: the collapse metrics of a fixed batch and the validation loss.

Axes: B batch, N volumes, D width, C channels, Z/Y/X voxels.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mri_fm.config import Config
from mri_fm.data.corpus import Corpus
from mri_fm.data.loader import evaluation_batches
from mri_fm.data.positions import rank_positions
from mri_fm.data.skips import Skip
from mri_fm.engine.environment import Environment
from mri_fm.errors import UserError
from mri_fm.objectives import Objective
from mri_fm.observe.collapse import feature_std, rankme

_log = logging.getLogger(__name__)


def is_due(done: int, every: int, steps: int) -> bool:
    """Whether what happens every `every` steps (0: never), after the first and after the last happens after step `done`."""
    return every > 0 and (done == 1 or done % every == 0 or done == steps)


class Monitor:
    """Evaluates without training; all ranks call together, since ZeRO-3 gathers weights in the forward pass."""

    def __init__(self, engine: Any, config: Config, corpus: Corpus, environment: Environment) -> None:
        """Choose the fixed batch (the first training samples) and the validation samples.

        Raises:
            UserError: a validation is asked for and the corpus has nothing to validate on.
        """
        self.engine, self.config, self.corpus, self.environment = engine, config, corpus, environment
        self.objective: Objective = engine.module
        self.fixed = corpus.select("train", config.data.contrasts)[: config.observe.samples]
        self._left_out: set[Skip] = set()
        self.val = corpus.select("val", config.data.contrasts) if config.val.every > 0 else []
        if config.val.every > 0 and not self.val:
            raise UserError(
                f"val.every={config.val.every}, but {corpus.root} has no such volume in its val split: set val.every=0, "
                "choose other data.contrasts or build the corpus with a larger --val-fraction"
            )

    def due(self, done: int) -> bool:
        """Whether anything is to be evaluated after step `done`."""
        return self._observes(done) or self._validates(done)

    def _observes(self, done: int) -> bool:
        spread = len(self.fixed) > 1  # a corpus of one volume has none
        return spread and is_due(done, self.config.observe.every, self.config.train.steps)

    def _validates(self, done: int) -> bool:
        return is_due(done, self.config.val.every, self.config.train.steps)

    @torch.no_grad()
    def watch(self, done: int, schedules: Mapping[str, np.ndarray]) -> dict[str, float]:
        """The metrics that are due after step `done`."""
        self.engine.eval()
        record = self._observe() if self._observes(done) else {}
        if self._validates(done):
            record["val_loss"] = self._validate({name: float(values[done - 1]) for name, values in schedules.items()})
        self.engine.train()
        return record

    def _observe(self) -> dict[str, float]:
        """Collapse metrics of the student's mean-pooled tokens: centre crops, no augmentation.

        A volume that has gone bad is left out, since the budget of skips says whether the run ends for it; every rank still
        makes all passes.
        """
        device, student = self.environment.device, self.objective.student
        features: list[Tensor] = []
        for batch in evaluation_batches(self.corpus, self.fixed, self.config.data, batch_size=4, device=device, strict=False):
            tokens_BND = student(batch.x_BCZYX, spacing_B3=batch.spacing_B3)
            features.append(tokens_BND.float().mean(dim=1)[batch.valid_B])
            self._name_left_out(batch.skips)
        features_ND = torch.cat(features)
        if len(features_ND) < 2:
            return {}
        deviation, rank = torch.stack([feature_std(features_ND), rankme(features_ND)]).tolist()
        return {"feature_std": deviation, "rankme": rank}

    def _name_left_out(self, skips: Sequence[Skip]) -> None:
        """Once each, on rank 0."""
        for skip in set(skips) - self._left_out if self.environment.is_main else ():
            _log.warning("feature_std and rankme leave out %s", skip)
        self._left_out |= set(skips)

    def _validate(self, schedule: Mapping[str, float]) -> float:
        """Mean loss over the first `val.batches` global micro-batches of the val split: centre crops, masks by position."""
        size = self.config.train.global_batch // self.config.train.accumulation
        rank, world, device = self.environment.rank, self.environment.world, self.environment.device
        total = torch.zeros((), dtype=torch.float64, device=device)
        for index in range(self.config.val.batches):
            positions = rank_positions(index, 0, global_batch=size, accumulation=1, rank=rank, world=world)
            chosen = [self.val[position % len(self.val)] for position in positions]
            (batch,) = evaluation_batches(self.corpus, chosen, self.config.data, batch_size=len(chosen), device=device)
            batch = replace(batch, positions_B=torch.as_tensor(positions, device=device), group_position=index * size)
            loss, _ = self.objective(batch, schedule)
            total += loss.double()
        torch.distributed.all_reduce(total)
        return float(total) / (world * self.config.val.batches)
