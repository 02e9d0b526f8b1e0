"""The volumes of an evaluation, and how they become input."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from mri_fm.config import DataConfig
from mri_fm.data.corpus import Corpus, Sample
from mri_fm.data.loader import Batch, evaluation_batches
from mri_fm.engine.environment import Environment


@dataclass(frozen=True, eq=False)
class Volumes:
    """Some volumes of a corpus.

    Attributes:
        corpus, samples: where they lie.
        data: how they become input.
        batch_size: volumes read at once.
    """

    corpus: Corpus
    samples: Sequence[Sample]
    data: DataConfig
    batch_size: int

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def keys(self) -> list[str]:
        """Of the volumes, in order."""
        return [sample.key for sample in self.samples]

    def some(self, rows: Sequence[int]) -> Volumes:
        """The volumes at these places."""
        return replace(self, samples=[self.samples[row] for row in rows])

    def batches(self, environment: Environment) -> Iterator[Batch]:
        """This rank's part of them, on its device; see `evaluation_batches`."""
        return evaluation_batches(
            self.corpus, self.samples, self.data, batch_size=self.batch_size, device=environment.device, rank=environment.rank,
            world=environment.world,
        )  # fmt: skip
