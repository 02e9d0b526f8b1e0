"""What all loaders have in common: the scans, the size of the input and which augmentation is on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from loaders.scans import Scan

ORIENTATION_LIMIT = 1.4  # longest over shortest axis, below which the depth axis is drawn
FLIP = 0.5
LOG_GAMMA = 0.1
BIAS = 0.2  # of the log field's control points
BIAS_POINTS = 4
BLUR, BLUR_PROBABILITY = 1.0, 0.2  # largest standard deviation, mm


@dataclass(frozen=True)
class Settings:
    """One run of one loader.

    Attributes:
        corpus, scans: what is read.
        size: depth, height, width of the input.
        batch: volumes of a batch.
        workers: threads or processes, whichever the loader has.
        device: where the batches are wanted.
        noise: largest standard deviation, in units of the z-scored volume.
        scale: the anatomy grows by a factor uniform in 1 ± this.
        rotation: degrees; about the depth axis, uniform in ± this.
    """

    corpus: Path
    scans: tuple[Scan, ...]
    size: tuple[int, int, int]
    batch: int
    workers: int
    device: str
    noise: float = 0.1
    scale: float = 0.1
    rotation: float = 0.0
