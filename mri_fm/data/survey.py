"""What the volumes of a corpus look like to a network, counted on a sample of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from mri_fm.config import DataConfig
from mri_fm.data.corpus import Corpus, Sample
from mri_fm.data.loader import evaluation_batches
from mri_fm.models.patches import Size3, patchify

SURVEYED = 256  # samples, spread over the corpus


def foreground_tokens(corpus: Corpus, samples: Sequence[Sample], config: DataConfig, patch: Size3) -> np.ndarray:
    """Foreground tokens of the centre crops of at most `SURVEYED` samples, int64 (S,): patches that hold any foreground."""
    chosen = samples[:: math.ceil(len(samples) / SURVEYED)]
    batches = evaluation_batches(corpus, chosen, config, batch_size=4, device=torch.device("cpu"))
    return np.concatenate([patchify(batch.foreground_BCZYX, patch).any(dim=2).sum(dim=1).numpy() for batch in batches])
