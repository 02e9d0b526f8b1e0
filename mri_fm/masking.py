"""Which tokens are hidden: a pure function of (seed, sample position, set), drawn on the device and exact in number.

Every mask ranks the tokens and hides the first M, so that exactly M are hidden whatever the shapes, in one vectorised pass
without a word to the host. `docs/masks.md` shows all of them.

    random      uniformly without replacement (He et al., MAE, CVPR 2022, §3)
    tube        columns along the depth axis (Tong et al., VideoMAE, NeurIPS 2022)
    multiblock  the union of cuboids (Bardes et al., V-JEPA, TMLR 2024)

Axes: B batch, R rows that are drawn (B, or 1 for a shared mask), N tokens in raster order, V visible tokens, M hidden tokens
(V + M = N, or the kept tokens), K kept tokens or blocks, Z/Y/X tokens along depth, height, width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mri_fm.rng import Stream, hash_bits, uniform

KINDS = ("random", "tube", "multiblock")
_KEY_BITS = 31  # of the two parts of a rank
_DRAWS_PER_BLOCK = 6


@dataclass(frozen=True)
class Blocks:
    """How the cuboids of `multiblock` are drawn; each pair is a range of a uniform draw.

    Attributes:
        count: cuboids in a mask.
        scale: share of the plane (height × width) that a cuboid covers.
        aspect: its height / width, in tokens.
        depth: share of the depth that it covers.
    """

    count: int = 8
    scale: tuple[float, float] = (0.15, 0.15)
    aspect: tuple[float, float] = (0.75, 1.5)
    depth: tuple[float, float] = (0.5, 1.0)

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ValueError: no block, or a range that is empty or out of bounds.
        """
        if self.count < 1:
            raise ValueError(f"a mask of {self.count} blocks hides nothing: at least 1 is needed")
        for name, largest in (("scale", 1.0), ("aspect", math.inf), ("depth", 1.0)):
            low, high = getattr(self, name)
            if not 0.0 < low <= high <= largest or math.isinf(high):
                raise ValueError(f"{name}={[low, high]} of the blocks is not a range within 0 < low <= high <= {largest}")


@dataclass(frozen=True, eq=False)
class MaskDraw:
    """What decides about a mask besides its kind, grid and ratio.

    Attributes:
        seed: the run's seed.
        positions_B: int64 (B,), global sample positions. A row depends on its position alone, not on the batch around it.
        shared: one mask for the whole batch, drawn from `group_position` alone.
        group_position: first position of the global micro-step, equal on all ranks.
        set_index: which of several independent masks of a sample, from 0; the same whatever their number.
        kept_BK: int64, the result of `keep_tokens`; ratios then count them alone, and masks index into them. None keeps all.
        foreground_BN: bool, over all tokens; background is hidden last, that is, only where M exceeds the foreground that may
            be hidden.
        foreground_visible: round-half-up(this · foreground tokens) stay visible as long as there is background to hide.
    """

    seed: int
    positions_B: Tensor
    shared: bool = False
    group_position: int | None = None
    set_index: int = 0
    kept_BK: Tensor | None = None
    foreground_BN: Tensor | None = None
    foreground_visible: float = 0.0

    def __post_init__(self) -> None:
        """Check what can be known without the tensors' values.

        Raises:
            ValueError: `set_index` or `foreground_visible` out of range, `shared` without group_position or with a foreground.
        """
        if self.set_index < 0:
            raise ValueError(f"sets are numbered from 0, not from {self.set_index}")
        if not 0.0 <= self.foreground_visible <= 1.0:
            raise ValueError(f"a visible share of the foreground of {self.foreground_visible} is not in [0, 1]")
        if self.shared and self.group_position is None:
            raise ValueError("a shared mask is drawn from group_position, which is missing")
        if self.shared and self.foreground_BN is not None:
            raise ValueError("a shared mask cannot follow the foreground, which differs from sample to sample")

    def rows(self) -> Tensor:
        """The positions that masks are drawn from, (R,)."""
        if self.shared and self.group_position is not None:
            return torch.full((1,), self.group_position, dtype=torch.int64, device=self.positions_B.device)
        return self.positions_B

    def bits(self, count: int) -> Tensor:
        """64 random bits for each of `count` tokens, no two alike in a row; int64 (R, count)."""
        return hash_bits(self.seed, Stream.MASK, self.rows(), count, first=count * self.set_index)

    def kept_foreground(self) -> Tensor | None:
        """`foreground_BN` at the kept tokens, (B, K)."""
        if self.foreground_BN is None or self.kept_BK is None:
            return self.foreground_BN
        return self.foreground_BN.gather(1, self.kept_BK)


def random_mask(
    num_tokens: int,
    ratio: float,
    *,
    seed: int,
    positions_B: Tensor,
    shared: bool = False,
    group_position: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Uniformly random masks without replacement: `uniform_mask` where nothing but these arguments matters.

    Args:
        num_tokens: N, at least 2.
        ratio: as in `uniform_mask`.
        seed, positions_B, shared, group_position: as in `MaskDraw`.

    Returns:
        visible_BV, hidden_BM as `uniform_mask`.

    Raises:
        ValueError: as `uniform_mask` and `MaskDraw`.
    """
    return uniform_mask((num_tokens,), ratio, MaskDraw(seed, positions_B, shared, group_position))


def uniform_mask(grid: Sequence[int], ratio: float, draw: MaskDraw) -> tuple[Tensor, Tensor]:
    """Uniformly random masks without replacement.

    Args:
        grid: tokens along depth, height, width.
        ratio: share of hidden tokens in [0, 1]; round-half-up(ratio·N) are hidden, and at least one is hidden and one visible.
        draw: what they are drawn from.

    Returns:
        visible_BV, hidden_BM: int64 token indices, ascending, disjoint and complete, on the device of `draw.positions_B`;
        indices into `draw.kept_BK` where it is given.

    Raises:
        ValueError: fewer than 2 tokens, or `ratio` out of range.
    """
    num_tokens = math.prod(grid) if draw.kept_BK is None else draw.kept_BK.shape[1]
    hidden = count_hidden(num_tokens, ratio)
    bits_RN = draw.bits(num_tokens)
    foreground_BN = draw.kept_foreground()
    if foreground_BN is None:
        return _for_batch(_split(bits_RN, hidden), draw.positions_B)
    return _split_foreground(_rank(_top_bits(bits_RN)), hidden, foreground_BN, draw.foreground_visible)


def tube_mask(grid: Sequence[int], ratio: float, draw: MaskDraw) -> tuple[Tensor, Tensor]:
    """Random columns of all tokens with the same (y, x), hidden from end to end; arguments, result, errors as `uniform_mask`.

    The last column is hidden in part, from its first slice on, where its length does not divide the exact total.
    """
    depth, height, width = grid
    columns_RN = _top_bits(draw.bits(height * width)).repeat(1, depth)
    return _finish(_rank(columns_RN), ratio, draw)


def multiblock_mask(grid: Sequence[int], ratio: float, draw: MaskDraw, blocks: Blocks) -> tuple[Tensor, Tensor]:
    """The union of random cuboids, all scaled by one common factor until it has exactly M tokens.

    A token's level in a cuboid is max over axes of |2·(token − centre)| / extent, below 1 inside; an axis that the cuboid spans
    from end to end does not count. Its level is the least over cuboids, and the M tokens of lowest level are hidden; among
    equal levels (the outermost shell) chance decides. `blocks` says how the cuboids are drawn; other arguments, result and
    errors as `uniform_mask`.
    """
    level_RN = _block_levels(grid, blocks, draw)
    # The bits of a float32 that is not negative are ordered as it is.
    rank_RN = _rank(level_RN.view(torch.int32).long(), draw.bits(math.prod(grid)))
    return _finish(rank_RN, ratio, draw)


def keep_tokens(foreground_BN: Tensor, count: int, *, seed: int, positions_B: Tensor) -> Tensor:
    """Which tokens of each sample a token budget keeps.

    More foreground tokens than that: a uniformly random subset of them, the brain's surface as likely as its middle. Fewer: all
    of them and random background tokens.

    Args:
        foreground_BN: bool, which tokens hold any foreground.
        count: tokens to keep, 1 … N.
        seed: the run's seed.
        positions_B: int64 (B,), global sample positions. A row depends on its position and foreground alone.

    Returns:
        int64 (B, count), ascending, on the device of `positions_B`.

    Raises:
        ValueError: a count outside 1 … N.
    """
    num_tokens = foreground_BN.shape[1]
    if not 1 <= count <= num_tokens:
        raise ValueError(f"a budget of {count} tokens is not in 1 … {num_tokens}")
    bits_BN = hash_bits(seed, Stream.BUDGET, positions_B, num_tokens)
    return _split(_background_last(_rank(_top_bits(bits_BN)), foreground_BN), count)[1]


def count_hidden(num_tokens: int, ratio: float) -> int:
    """M for N tokens, see `random_mask`.

    Raises:
        ValueError: `num_tokens` below 2 or `ratio` outside [0, 1].
    """
    if num_tokens < 2:
        raise ValueError(f"{num_tokens} tokens cannot be split into hidden and visible ones: at least 2 are needed")
    if not 0.0 <= ratio <= 1.0:
        raise ValueError(f"a mask ratio of {ratio} is not in [0, 1]")
    return min(max(math.floor(ratio * num_tokens + 0.5), 1), num_tokens - 1)


def _top_bits(bits_RN: Tensor) -> Tensor:
    """The 31 leading bits as non-negative numbers in the order of the signed ones."""
    return (bits_RN >> (64 - _KEY_BITS)) + (1 << (_KEY_BITS - 1))


def _rank(major_RN: Tensor, bits_RN: Tensor | None = None) -> Tensor:
    """Distinct int64 keys: by `major_RN` (31 bits), then by random bits if given, then by token index."""
    num_tokens = major_RN.shape[1]
    index_bits = (num_tokens - 1).bit_length()
    key_RN = (major_RN << _KEY_BITS) + torch.arange(num_tokens, device=major_RN.device)
    if bits_RN is None:
        return key_RN
    return key_RN + ((_top_bits(bits_RN) >> index_bits) << index_bits)


def _finish(rank_RN: Tensor, ratio: float, draw: MaskDraw) -> tuple[Tensor, Tensor]:
    """Hide the kept tokens of lowest rank."""
    if draw.kept_BK is not None:
        rank_RN = rank_RN.expand(len(draw.kept_BK), -1).gather(1, draw.kept_BK)
    hidden = count_hidden(rank_RN.shape[1], ratio)
    foreground_BN = draw.kept_foreground()
    if foreground_BN is None:
        return _for_batch(_split(rank_RN, hidden), draw.positions_B)
    return _split_foreground(rank_RN, hidden, foreground_BN, draw.foreground_visible)


def _for_batch(masks: tuple[Tensor, Tensor], positions_B: Tensor) -> tuple[Tensor, Tensor]:
    visible_RV, hidden_RM = masks
    repeats = positions_B.shape[0] // visible_RV.shape[0]
    return (visible_RV, hidden_RM) if repeats == 1 else (visible_RV.repeat(repeats, 1), hidden_RM.repeat(repeats, 1))


def _split(rank_RN: Tensor, hidden: int) -> tuple[Tensor, Tensor]:
    """(visible, hidden) for the `hidden` lowest of distinct ranks: a selection and a scan, much cheaper than sorting."""
    is_hidden_RN = rank_RN <= torch.kthvalue(rank_RN, hidden, dim=1, keepdim=True).values
    token_N = torch.arange(rank_RN.shape[1], device=rank_RN.device)
    count_RN = is_hidden_RN.cumsum(1)
    slot_RN = torch.where(is_hidden_RN, count_RN - 1, hidden + token_N - count_RN)
    split_RN = torch.empty_like(slot_RN).scatter_(1, slot_RN, token_N.expand_as(slot_RN))
    return split_RN[:, hidden:], split_RN[:, :hidden]


def _split_foreground(rank_BN: Tensor, hidden: int, foreground_BN: Tensor, foreground_visible: float) -> tuple[Tensor, Tensor]:
    """As `_split`, background last: Q foreground tokens are hidden and M − Q background tokens."""
    num_tokens = rank_BN.shape[1]
    # Sorted: F foreground tokens, the first Q of them hidden; then the background, the first M − Q of it hidden.
    order_BN = _background_last(rank_BN, foreground_BN).argsort(dim=1)
    f_B1 = foreground_BN.sum(1, keepdim=True)
    kept_B1 = (f_B1.double() * foreground_visible + 0.5).floor().long()
    q_B1 = torch.maximum((f_B1 - kept_B1).clamp(max=hidden), f_B1 - (num_tokens - hidden))
    m_M = torch.arange(hidden, device=rank_BN.device)
    v_V = torch.arange(num_tokens - hidden, device=rank_BN.device)
    hidden_BM = order_BN.gather(1, torch.where(m_M < q_B1, m_M, m_M + f_B1 - q_B1))
    visible_BV = order_BN.gather(1, torch.where(v_V < f_B1 - q_B1, v_V + q_B1, v_V + hidden))
    return visible_BV.sort(dim=1).values, hidden_BM.sort(dim=1).values


def _background_last(rank_BN: Tensor, foreground_BN: Tensor) -> Tensor:
    return rank_BN + ((~foreground_BN).long() << (2 * _KEY_BITS))


def _block_levels(grid: Sequence[int], blocks: Blocks, draw: MaskDraw) -> Tensor:
    """Each token's least level over the cuboids, float32 (R, N), see `multiblock_mask`."""
    start_RK3, extent_RK3 = draw_blocks(grid, blocks, draw)
    levels = []
    for axis, size in enumerate(grid):
        start_RK1, extent_RK1 = start_RK3[..., axis, None], extent_RK3[..., axis, None]
        token = torch.arange(size, device=start_RK3.device)
        level = (2 * token + 1 - 2 * start_RK1 - extent_RK1).abs().float() / extent_RK1.float()
        levels.append(torch.where(extent_RK1 == size, 0.0, level))
    plane_RKYX = torch.maximum(levels[1][..., :, None], levels[2][..., None, :])
    return torch.maximum(levels[0][..., :, None, None], plane_RKYX[:, :, None]).amin(1).flatten(1)


def draw_blocks(grid: Sequence[int], blocks: Blocks, draw: MaskDraw) -> tuple[Tensor, Tensor]:
    """First token and extent of each cuboid along depth, height, width: int64 (R, K, 3) each, inside the grid."""
    count = blocks.count * _DRAWS_PER_BLOCK
    draws = uniform(draw.seed, Stream.MASK_BLOCK, draw.rows(), count * (draw.set_index + 1))[:, count * draw.set_index :]
    draws = draws.double().view(-1, blocks.count, _DRAWS_PER_BLOCK)
    scale, aspect, depth = (
        low + (high - low) * draws[..., i] for i, (low, high) in enumerate((blocks.scale, blocks.aspect, blocks.depth))
    )
    area = scale * (grid[1] * grid[2])
    extent_RK3 = torch.stack([depth * grid[0], (area * aspect).sqrt(), (area / aspect).sqrt()], dim=-1).round().long()
    # No constant tensor of the grid: it would have to be copied to the device.
    extents = [extent_RK3[..., i].clamp(1, size) for i, size in enumerate(grid)]
    starts = [(draws[..., 3 + i] * (size + 1 - extents[i])).floor().long() for i, size in enumerate(grid)]
    return torch.stack(starts, dim=-1), torch.stack(extents, dim=-1)
