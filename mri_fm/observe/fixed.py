"""Volumes that are looked at again and again, shared out over the ranks.

Axes: n volumes of this rank, padded so that all ranks have as many, N volumes, C columns.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor

from mri_fm.config import DataConfig
from mri_fm.data.corpus import Corpus, Sample
from mri_fm.data.loader import evaluation_batches
from mri_fm.data.skips import Skip
from mri_fm.engine.environment import Environment
from mri_fm.inputs import Inputs, to_device

BATCH = 4
_log = logging.getLogger(__name__)


def choose_samples(samples: Sequence[Sample], count: int) -> list[Sample]:
    """The first of each data set and contrast in turn until there are `count`; in the order of the manifest."""
    groups: dict[tuple[str, str], list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[sample.dataset, sample.contrast].append(sample)
    turns = [sample for turn in zip_longest(*groups.values()) for sample in turn if sample is not None]
    return sorted(turns[:count], key=lambda sample: sample.row)


class FixedBatch:
    """Centre crops without augmentation, read at the first use and then kept in host memory.

    Rank r of W has the volumes r, r + W, …, and repeats others so that all ranks make as many passes, as ZeRO-3 needs. A volume
    that cannot be read is left out and named, once.

    Attributes:
        samples: those that are there; the N rows of what `gather` returns are theirs.
    """

    def __init__(self, corpus: Corpus, samples: Sequence[Sample], config: DataConfig, environment: Environment) -> None:
        """Choose `samples`, in this order; nothing is read yet."""
        self.samples = list(samples)
        self._corpus, self._config, self._environment = corpus, config, environment
        self._batches: list[Inputs] | None = None
        self._kept_N = torch.empty(0, dtype=torch.int64)

    def batches(self) -> Iterator[Inputs]:
        """This rank's share on its device, at most `BATCH` volumes at once; called by all ranks together."""
        if self._batches is None:
            self._batches = self._read()
        for batch in self._batches:
            yield _on(batch, self._environment.device)

    def gather(self, rows_nC: Tensor) -> Tensor:
        """A row for each volume of `samples`, (N, C), on all ranks, from those for this rank's share in order."""
        parts = [torch.empty_like(rows_nC) for _ in range(self._environment.world)]
        torch.distributed.all_gather(parts, rows_nC.contiguous())
        return torch.stack(parts, dim=1).flatten(0, 1).index_select(0, self._kept_N)

    def _read(self) -> list[Inputs]:
        count, rank, world = len(self.samples), self._environment.rank, self._environment.world
        own = list(range(rank, world * -(-count // world), world))
        chosen = [self.samples[index % count] for index in own]
        device = self._environment.device
        batches, valid, skips = [], [], set[Skip]()
        for batch in evaluation_batches(self._corpus, chosen, self._config, batch_size=BATCH, device=device, strict=False):
            positions_B = torch.tensor([own[position] for position in batch.positions_B.tolist()])
            valid += batch.valid_B.tolist()
            skips |= set(batch.skips)
            batches.append(Inputs(batch.x_BCZYX.cpu(), positions_B, 0, batch.foreground_BCZYX.cpu(), batch.spacing_B3.cpu()))
        self._settle([index for index, is_valid in zip(own, valid, strict=True) if is_valid and index < count], skips)
        return batches

    def _settle(self, own_valid: Sequence[int], skips: set[Skip]) -> None:
        """Agree on the volumes that are there; the first rank names the others."""
        found: list[tuple[Sequence[int], set[Skip]]] = [(own_valid, skips)] * self._environment.world
        torch.distributed.all_gather_object(found, (own_valid, skips))
        kept = sorted(index for valid, _ in found for index in valid)
        self.samples = [self.samples[index] for index in kept]
        self._kept_N = to_device(torch.tensor(kept, dtype=torch.int64), self._environment.device)
        left_out = {skip.key: skip for _, of_rank in found for skip in of_rank}
        for skip in left_out.values() if self._environment.is_main else ():
            _log.warning("observations leave out %s", skip)


def first_of(batch: Inputs) -> Inputs:
    """The first volume as a batch of one."""
    return _each(batch, lambda tensor: tensor[:1])


def _on(batch: Inputs, device: torch.device) -> Inputs:
    return batch if device.type == "cpu" else _each(batch, lambda tensor: to_device(tensor, device))


def _each(batch: Inputs, change: Callable[[Tensor], Tensor]) -> Inputs:
    tensors = {field.name: getattr(batch, field.name) for field in fields(batch) if field.name != "group_position"}
    changed: dict[str, Any] = {name: change(tensor) for name, tensor in tensors.items()}
    return replace(batch, **changed)
