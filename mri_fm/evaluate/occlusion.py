"""Which part of a volume a probe's score rests on: the score is taken again with one block after another covered.

Occlusion sensitivity (Zeiler & Fergus, ECCV 2014, §4.2). A block's foreground becomes the mean of the crop's foreground; the
background stays, so that what is taken away is contrast inside the head and not its outline.

Axes: C channels, Z/Y/X voxels or patches, K blocks, N patches in raster order, F features.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mri_fm.models.patches import Size3

MOST_BLOCKS = 160  # of one size: what a unit may cost
SIZES = 3


@dataclass(frozen=True, eq=False)
class Blocks:
    """Cubes of `edge` patches (less where the grid is smaller) at `start_K`, which together cover the grid."""

    grid: Size3
    edge: int
    start_K: tuple[Size3, ...]

    def slices(self, start: Size3, scale: Size3 = (1, 1, 1)) -> tuple[slice, ...]:
        """Where a block lies, in patches, or with `scale` the patch in voxels."""
        return tuple(slice(s * p, min(s + self.edge, n) * p) for s, n, p in zip(start, self.grid, scale, strict=True))

    def mean_of_covering(self, value_K: Sequence[float]) -> Tensor:
        """For each patch the mean value of the blocks that cover it, float32 (N,)."""
        sum_ZYX, count_ZYX = torch.zeros(self.grid), torch.zeros(self.grid)
        for start, value in zip(self.start_K, value_K, strict=True):
            sum_ZYX[self.slices(start)] += value
            count_ZYX[self.slices(start)] += 1
        return (sum_ZYX / count_ZYX).flatten()


def block_sizes(grid: Size3, most: int = MOST_BLOCKS) -> list[Blocks]:
    """Up to `SIZES` sizes from the smallest on of which `most` blocks cover the grid, with the finest stride that allows."""
    found: list[Blocks] = []
    edge = 1
    while len(found) < SIZES and (edge < max(grid) or not found):
        starts = next(
            (s for s in (_starts(grid, edge, step) for step in range(1, edge + 1)) if math.prod(map(len, s)) <= most), None
        )
        if starts is not None:
            found.append(Blocks(grid, edge, tuple((z, y, x) for z, y, x in itertools.product(*starts))))
        edge += 1
    return found


def _starts(grid: Size3, edge: int, step: int) -> list[list[int]]:
    """Along each axis; the last block ends with the grid."""
    last = [max(0, n - edge) for n in grid]
    return [sorted({*range(0, end + 1, step), end}) for end in last]


def occlude(x_CZYX: Tensor, foreground_CZYX: Tensor, blocks: Blocks, patch: Size3) -> Iterator[tuple[int, Tensor]]:
    """The volume with each block covered that holds foreground: its number, and (C, Z, Y, X)."""
    fill = x_CZYX[foreground_CZYX].mean() if bool(foreground_CZYX.any()) else x_CZYX.mean()
    for number, start in enumerate(blocks.start_K):
        place = (slice(None), *blocks.slices(start, patch))
        inside = foreground_CZYX[place]
        if bool(inside.any()):
            covered_CZYX = x_CZYX.clone()
            covered_CZYX[place] = torch.where(inside, fill, x_CZYX[place])
            yield number, covered_CZYX


def score_drops(
    x_CZYX: Tensor,
    foreground_CZYX: Tensor,
    sizes: Sequence[Blocks],
    patch: Size3,
    read: Callable[[Tensor], Tensor],
    score: Callable[[Tensor], Tensor],
    *,
    batch_size: int,
) -> tuple[float, list[Tensor]]:
    """By how much the score falls where a block is covered.

    Args:
        x_CZYX, foreground_CZYX: the volume and what of it is foreground.
        sizes: of the blocks.
        patch: in voxels.
        read: volumes (B, C, Z, Y, X) to features (B, F).
        score: features (B, F) to scores (B,).
        batch_size: volumes read at once.

    Returns:
        The score of the whole volume, and for each size the mean drop (N,) of the blocks that cover a patch; a block without
        foreground covers nothing, and its drop is 0.
    """
    parts, places = [read(x_CZYX[None])], []
    for index, blocks in enumerate(sizes):
        covered = occlude(x_CZYX, foreground_CZYX, blocks, patch)
        while batch := list(itertools.islice(covered, batch_size)):
            places += [(index, number) for number, _ in batch]
            parts.append(read(torch.stack([volume for _, volume in batch])))
    whole, *rest = score(torch.cat(parts)).tolist()
    drops = [[0.0] * len(blocks.start_K) for blocks in sizes]
    for (index, number), value in zip(places, rest, strict=True):
        drops[index][number] = whole - value
    return whole, [blocks.mean_of_covering(drop) for blocks, drop in zip(sizes, drops, strict=True)]
