"""Where tokens lie: a table added once, of sines and cosines or learned, or rotary angles for queries and keys of every layer.

All count in patches of the grid that the network was built for. Another grid is taken for a finer or coarser sampling of
the same field of view, as the loader makes it, and its patch centres are interpolated into that range. With `Rope.spacing`
angles count in millimetres instead, at any size.

Axes: B batch, N tokens in raster order, T any choice of them, D width, H heads, E head width, K frequencies of one axis,
P = 3K pairs of rotated features, 3 the axes z, y, x.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple, Self, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from mri_fm.model_config import ModelConfig
from mri_fm.models.inflation import resize_positions
from mri_fm.models.patches import Size3
from mri_fm.models.sequence import Parts

MM_PER_UNIT = 8.0  # a patch of 8 voxels at 1 mm, so that such volumes have the same angles with and without a spacing
SINCOS_BASE = 10000.0
Array = TypeVar("Array", Tensor, NDArray[np.float64])


class Rope(NamedTuple):
    """How rotary positions count."""

    base: float = 100.0  # of the frequencies
    spacing: bool = False  # in millimetres of each volume, / 8, instead of in patches of the trained grid

    @classmethod
    def from_config(cls, model: ModelConfig) -> Self | None:
        """What `model` asks for; None: fixed sine-cosine positions."""
        return cls(model.rope_base, model.rope_spacing) if model.position == "rope" else None


class Rotation(NamedTuple):
    """Cosines and sines of the angles by which the features of each token are turned."""

    cos_B1TP: Tensor
    sin_B1TP: Tensor

    def with_registers(self, count: int) -> Rotation:
        """The same, after `count` tokens in front that lie nowhere and are not turned."""
        return Rotation(F.pad(self.cos_B1TP, (0, 0, count, 0), value=1.0), F.pad(self.sin_B1TP, (0, 0, count, 0)))

    def of(self, parts: Parts) -> Rotation:
        """That of this rank's tokens."""
        return Rotation(parts.take(self.cos_B1TP, 2), parts.take(self.sin_B1TP, 2))

    def turn(self, x_BHTE: Tensor) -> Tensor:
        """Turn feature p against feature P + p, p < P; leave those from 2P on. In float32 at least, returned as it came."""
        pairs = self.cos_B1TP.shape[-1]
        a, b, rest = x_BHTE.split([pairs, pairs, x_BHTE.shape[-1] - 2 * pairs], dim=-1)
        cos, sin = self.cos_B1TP, self.sin_B1TP
        return torch.cat([(a * cos - b * sin).to(x_BHTE.dtype), (a * sin + b * cos).to(x_BHTE.dtype), rest], dim=-1)


class SincosPositions(nn.Module):
    """Adds `sincos_positions` to the tokens."""

    def __init__(self, width: int, grid: Size3) -> None:
        super().__init__()
        self.width, self.grid = width, grid
        self.register_buffer("table_ND", sincos_positions(width, grid), persistent=False)
        self.table_ND: Tensor
        self._other: tuple[Size3, Tensor] | None = None  # the last other grid and its table

    def forward(
        self, tokens_BTD: Tensor, index_BT: Tensor | None, grid: Size3, spacing_B3: Tensor | None
    ) -> tuple[Tensor, None]:
        """The placed tokens, and no rotation.

        Args:
            tokens_BTD: embedded tokens.
            index_BT: int64 indices into the raster order of `grid`; None: all of them.
            grid: patches of the volume along z, y, x.
            spacing_B3: not used; as in `RotaryPositions.forward`.
        """
        table_ND = self._table(grid)
        placed = table_ND if index_BT is None else table_ND[index_BT]
        return tokens_BTD + placed.to(tokens_BTD.dtype), None

    def _table(self, grid: Size3) -> Tensor:
        """The table of a grid; the last other one than the trained one is kept, since tables come from the host."""
        if grid == self.grid:
            return self.table_ND
        if self._other is None or self._other[0] != grid:
            self._other = grid, sincos_positions(self.width, grid, self.grid)
        self._other = grid, self._other[1].to(self.table_ND)
        return self._other[1]


class LearnedPositions(nn.Module):
    """Adds a table of parameters to the tokens, which starts as `sincos_positions` (Dosovitskiy et al., ICLR 2021, §3.1)."""

    def __init__(self, width: int, grid: Size3) -> None:
        super().__init__()
        self.grid = grid
        self.table_ND = nn.Parameter(sincos_positions(width, grid))

    def forward(
        self, tokens_BTD: Tensor, index_BT: Tensor | None, grid: Size3, spacing_B3: Tensor | None
    ) -> tuple[Tensor, None]:
        """The placed tokens, and no rotation; arguments as in `SincosPositions.forward`, another grid is interpolated."""
        table_ND = self.table_ND if grid == self.grid else resize_positions(self.table_ND, self.grid, grid)
        placed = table_ND if index_BT is None else table_ND[index_BT]
        return tokens_BTD + placed.to(tokens_BTD.dtype), None


class RotaryPositions(nn.Module):
    """RoPE-3D: attention that sees the difference of two tokens' coordinates (Su et al., Neurocomputing 2024, §3.2).

    Of a head's E features 2·⌊E/6⌋ turn with each axis, at angles coordinate · base^(−k/K), k < K = ⌊E/6⌋; the rest stay. The
    split over axes is V-JEPA 2's (Assran et al., 2025, §2.1), the base of 100 for short grids that of Heo et al. (ECCV 2024).
    """

    def __init__(self, head_width: int, rope: Rope, grid: Size3, patch: Size3) -> None:
        """Angles for volumes whose patches have `patch` voxels, and which divide into `grid` of them at the trained size.

        Raises:
            ValueError: a head too narrow for one pair of features per axis.
        """
        super().__init__()
        if head_width < 6:
            raise ValueError(f"rotary positions need at least 6 features in a head, not {head_width}")
        self.frequencies, self.rope, self.grid, self.patch = head_width // 6, rope, grid, patch

    def forward(
        self, tokens_BTD: Tensor, index_BT: Tensor | None, grid: Size3, spacing_B3: Tensor | None
    ) -> tuple[Tensor, Rotation]:
        """The tokens as they came, and the rotation of their queries and keys.

        Args:
            tokens_BTD: embedded tokens.
            index_BT: int64 indices into the raster order of `grid`; None: all of them.
            grid: patches of the volume along z, y, x.
            spacing_B3: mm between voxels along the volume's z, y, x, on the device of the tokens; only used, and then
                needed, with `Rope.spacing`.

        Raises:
            ValueError: not one spacing for each sample where they are needed.
        """
        dtype = torch.promote_types(tokens_BTD.dtype, torch.float32)
        steps_K = torch.arange(self.frequencies, device=tokens_BTD.device, dtype=dtype)
        coordinate_BT3 = self._coordinates(grid, spacing_B3, tokens_BTD.shape[0], steps_K)
        if index_BT is not None:
            rows = coordinate_BT3.expand(len(index_BT), -1, -1)
            coordinate_BT3 = rows.gather(1, index_BT[:, :, None].expand(-1, -1, 3))
        omega_K = torch.exp(steps_K * (-math.log(self.rope.base) / self.frequencies))
        angle_B1TP = (coordinate_BT3[..., None] * omega_K).flatten(2)[:, None]
        return tokens_BTD, Rotation(angle_B1TP.cos(), angle_B1TP.sin())

    def _coordinates(self, grid: Size3, spacing_B3: Tensor | None, batch: int, like: Tensor) -> Tensor:
        """(1, N, 3), or (B, N, 3) by the samples' own spacing; device and dtype of `like`."""
        index = [torch.arange(n, device=like.device, dtype=like.dtype) for n in grid]
        if not self.rope.spacing:
            axes = [interpolate(i, n, t) for i, n, t in zip(index, grid, self.grid, strict=True)]
            return torch.cartesian_prod(*axes)[None]
        if spacing_B3 is None or spacing_B3.shape != (batch, 3):
            given = "none" if spacing_B3 is None else f"one of shape {tuple(spacing_B3.shape)}"
            raise ValueError(
                f"positions in millimetres need the spacing of {batch} samples, a row of z, y, x each, not {given}"
            )
        voxels_N3 = torch.cartesian_prod(*(i * voxels for i, voxels in zip(index, self.patch, strict=True)))
        return voxels_N3 * (spacing_B3.to(like.dtype) / MM_PER_UNIT)[:, None]


def positions(
    width: int, heads: int, grid: Size3, patch: Size3, rope: Rope | None, *, learned: bool = False
) -> SincosPositions | LearnedPositions | RotaryPositions:
    """Rotary positions, or where `rope` is None a table, a learned one or the one of sines and cosines."""
    if learned:
        return LearnedPositions(width, grid)
    return SincosPositions(width, grid) if rope is None else RotaryPositions(width // heads, rope, grid, patch)


def interpolate(index: Array, count: int, trained: int) -> Array:
    """The centre of patch `index` of `count` in patches of an axis that had `trained`; `index` itself where they are equal."""
    return (index + 0.5) * (trained / count) - 0.5


def sincos_positions(width: int, grid: Size3, trained: Size3 | None = None) -> Tensor:
    """Fixed 3D sine-cosine position table, float32 (N, D), computed in float64.

    Each axis has sines and cosines of its patch index at frequencies 10000^(-k/K), k < K = ceil(D/6) (Vaswani et al., 2017,
    §3.5, once per axis). Where 6 does not divide the width, the lowest frequencies of the last axis are cut off.

    Args:
        width: D.
        grid: patches along z, y, x.
        trained: the grid that the indices count in, see `interpolate`; default: `grid` itself.
    """
    # NumPy, since deepspeed.zero.Init makes torch's constructors round to the dtype of the weights.
    return torch.from_numpy(_sincos_table(width, grid, trained or grid).copy())


@lru_cache(maxsize=2)
def _sincos_table(width: int, grid: Size3, trained: Size3) -> NDArray[np.float32]:
    frequencies = -(-width // 6)
    omega_K = SINCOS_BASE ** (-np.arange(frequencies, dtype=np.float64) / frequencies)
    waves = []
    axes = [interpolate(np.arange(n, dtype=np.float64), n, t) for n, t in zip(grid, trained, strict=True)]
    for axis in np.meshgrid(*axes, indexing="ij"):
        phase_NK = axis.reshape(-1, 1) * omega_K
        waves.append(np.stack([np.sin(phase_NK), np.cos(phase_NK)], axis=2).reshape(len(phase_NK), -1))
    return np.concatenate(waves, axis=1)[:, :width].astype(np.float32)
