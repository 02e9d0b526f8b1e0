"""What is looked at beside the loop: a fixed batch, the optimizer's step and the validation loss."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mri_fm.config import Config
from mri_fm.data.corpus import Corpus
from mri_fm.data.loader import evaluation_batches
from mri_fm.data.positions import rank_positions
from mri_fm.engine.ema import EMA
from mri_fm.engine.environment import Environment
from mri_fm.engine.sequence_parallel import data_place
from mri_fm.errors import UserError
from mri_fm.models.sequence import SequenceGroup, sharing_tokens
from mri_fm.objectives import Objective
from mri_fm.observe.draw import Arrays
from mri_fm.observe.dynamics import BlockDynamics
from mri_fm.observe.fixed import FixedBatch, choose_samples
from mri_fm.observe.observer import Observer

if TYPE_CHECKING:
    from mri_fm.observe.probe import OnlineProbe


def is_due(done: int, every: int, steps: int) -> bool:
    """Whether what happens every `every` steps (0: never), after the first and after the last happens after step `done`."""
    return every > 0 and (done == 1 or done % every == 0 or done == steps)


def finite(value: float) -> float | None:
    """None where it is not finite: JSON has no such number."""
    return value if math.isfinite(value) else None


class Monitor:
    """Evaluates without training; all ranks call together, since ZeRO-3 gathers weights in the forward pass."""

    def __init__(
        self,
        engine: Any,
        ema: EMA,
        config: Config,
        corpus: Corpus,
        environment: Environment,
        sequence: SequenceGroup | None = None,
    ) -> None:
        """Choose the fixed batch (training samples, of all data sets and contrasts in turn) and the validation samples.

        The ranks of a sequence group validate together, as they train; the fixed batch is shared out over all ranks.

        Raises:
            UserError: a validation is asked for and the corpus has nothing to validate on.
        """
        self.engine, self.config, self.corpus, self.environment, self.sequence = engine, config, corpus, environment, sequence
        self.objective: Objective = engine.module
        chosen = choose_samples(corpus.select("train", config.data.contrasts), config.observe.samples)
        self.spread = len(chosen) > 1  # a corpus of one volume has none
        fixed = FixedBatch(corpus, chosen, config.data, environment)
        self.observer = Observer(self.objective, fixed, compiled=config.train.compile)
        self.dynamics = BlockDynamics(engine, ema, config, environment)
        self.probe = self._build_probe()
        self.val = corpus.select("val", config.data.contrasts) if config.val.every > 0 else []
        if config.val.every > 0 and not self.val:
            raise UserError(
                f"val.every={config.val.every}, but {corpus.root} has no such volume in its val split: set val.every=0, "
                "choose other data.contrasts or build the corpus with a larger --val-fraction"
            )

    def due(self, done: int) -> bool:
        """Whether anything is to be evaluated after step `done`."""
        return self._observes(done) or self._validates(done) or self._probes(done)

    def expect(self, done: int) -> None:
        """Before step `done` is taken: what is to be observed of it is looked at on the way."""
        if self._observes(done):
            self.dynamics.expect()

    def _observes(self, done: int) -> bool:
        return self.spread and is_due(done, self.config.observe.every, self.config.train.steps)

    def _validates(self, done: int) -> bool:
        return is_due(done, self.config.val.every, self.config.train.steps)

    def _build_probe(self) -> OnlineProbe | None:
        if not self.config.observe.probe.label:
            return None
        from mri_fm.observe.probe import OnlineProbe  # scikit-learn, which other runs need not load

        return OnlineProbe(self.objective, self.corpus, self.config, self.environment)

    def _probes(self, done: int) -> bool:
        return self.probe is not None and is_due(done, self.config.observe.probe.every, self.config.train.steps)

    @torch.no_grad()
    def watch(
        self, done: int, schedules: Mapping[str, np.ndarray], grad_norm: Tensor, step_time: float
    ) -> dict[str, float | None]:
        """The metrics that are due after step `done`, given the norm of its gradient and the seconds that such steps take."""
        self.engine.eval()
        record: dict[str, float | None] = {}
        if self._observes(done):
            start = time.perf_counter()
            record = self._observe(grad_norm)
            seconds = time.perf_counter() - start
            record |= {"observe_time": seconds, "observe_share": seconds / (self.config.observe.every * step_time)}
        if self.probe is not None and self._probes(done):
            record |= self.probe.probe()
        if self._validates(done):
            record["val_loss"] = self._validate({name: float(values[done - 1]) for name, values in schedules.items()})
        self.engine.train()
        return record

    def picture(self, done: int) -> Arrays | None:
        """Arrays of what is to be drawn after step `done`; None: nothing is. Called by all ranks."""
        if not (self._observes(done) and self.config.observe.draws(done, self.config.train.steps)):
            return None
        self.engine.eval()
        arrays = self.observer.picture()
        self.engine.train()
        return arrays

    def _observe(self, grad_norm: Tensor) -> dict[str, float | None]:
        """All of it, fetched at once."""
        found = self.dynamics.report(grad_norm) | self.observer.observe()
        values = torch.stack([value.double() for value in found.values()]).tolist()
        return {name: finite(value) for name, value in zip(found, values, strict=True)}

    def _validate(self, schedule: Mapping[str, float]) -> float:
        """Mean loss over the first `val.batches` global micro-batches of the val split: centre crops, masks by position."""
        size = self.config.train.global_batch // self.config.train.accumulation
        rank, world = data_place(self.environment, self.config.train.sequence_parallel)
        device = self.environment.device
        total = torch.zeros((), dtype=torch.float64, device=device)
        for index in range(self.config.val.batches):
            positions = rank_positions(index, 0, global_batch=size, accumulation=1, rank=rank, world=world)
            chosen = [self.val[position % len(self.val)] for position in positions]
            (batch,) = evaluation_batches(self.corpus, chosen, self.config.data, batch_size=len(chosen), device=device)
            batch = replace(batch, positions_B=torch.as_tensor(positions, device=device), group_position=index * size)
            with sharing_tokens(self.sequence):
                loss, _ = self.objective(batch, schedule)
            total += loss.double()
        torch.distributed.all_reduce(total)
        return float(total) / (self.environment.world * self.config.val.batches)
