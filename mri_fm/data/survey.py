"""What the volumes of a corpus look like to a network, counted on a sample of them."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mri_fm.config import DataConfig
from mri_fm.data.corpus import Corpus, Sample
from mri_fm.data.loader import evaluation_batches
from mri_fm.data.skips import Skip, listed
from mri_fm.errors import UserError
from mri_fm.models.patches import Size3, patchify

_log = logging.getLogger(__name__)
SURVEYED = 256  # samples, spread over the corpus


def foreground_tokens(corpus: Corpus, samples: Sequence[Sample], config: DataConfig, patch: Size3) -> np.ndarray:
    """Foreground tokens of the centre crops of at most `SURVEYED` samples, int64 (S,): patches that hold any foreground.

    A sample that cannot be read is left out, by name: training counts it where it meets it.

    Raises:
        UserError: none can be read.
    """
    chosen = samples[:: math.ceil(len(samples) / SURVEYED)]
    counted: list[Tensor] = []
    skips: list[Skip] = []
    for batch in evaluation_batches(corpus, chosen, config, batch_size=4, device=torch.device("cpu"), strict=False):
        counted.append(patchify(batch.foreground_BCZYX, patch).any(dim=2).sum(dim=1)[batch.valid_B])
        skips += batch.skips
    if len(skips) == len(chosen):
        raise UserError(
            f"no readable sample to count tokens of: {listed(skips)}; restore these shards or build the corpus again"
        )
    if skips:
        _log.warning("token budget: left out %s", listed(skips))
    return torch.cat(counted).numpy()
