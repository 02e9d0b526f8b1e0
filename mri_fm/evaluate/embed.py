"""Every volume once through the frozen encoders.

Axes: B batch, S samples (volumes), C channels, N tokens, D width, F features, Z/Y/X voxels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from mri_fm.data.loader import Batch
from mri_fm.errors import UserError
from mri_fm.models.vit import VisionTransformer

VOXEL_GRID = 16  # the raw-voxel baseline sees at most this many cells along an axis


@dataclass(frozen=True)
class Embedded:
    """What the probes and the report need of each volume, in the order of the samples."""

    tokens: dict[str, Tensor]  # per encoder: float16 (S, N, D), on the CPU
    pooled: dict[str, NDArray[np.float32]]  # per encoder: (S, D), mean over the tokens
    voxel_SF: NDArray[np.float32]  # the encoders' input at low resolution
    slice_SYX: NDArray[np.float32]  # its middle slice, for pictures


@torch.inference_mode()
def embed(
    encoders: Mapping[str, VisionTransformer], batches: Iterable[Batch], keys: Sequence[str], device: torch.device
) -> Embedded:
    """Run the encoders over deterministic evaluation batches.

    Args:
        encoders: frozen networks by name.
        batches: `positions_B` are indices into `keys`.
        keys: the samples' keys.
        device: where the encoders run.

    Raises:
        UserError: an embedding is not finite, or a volume never came.
    """
    parts: list[dict[str, Tensor]] = []
    order = []
    networks = {name: encoder.to(device).eval() for name, encoder in encoders.items()}
    for batch in batches:
        x_BCZYX = batch.x_BCZYX.to(device, torch.float32)
        spacing_B3 = batch.spacing_B3.to(device)
        tokens = {name: encoder(x_BCZYX, spacing_B3=spacing_B3).float() for name, encoder in networks.items()}
        positions = batch.positions_B.tolist()
        for name, token_BND in tokens.items():
            _require_finite(token_BND, [keys[p] for p in positions], name)
        parts.append(_keep(x_BCZYX, tokens))
        order += positions
    if sorted(order) != list(range(len(keys))):
        raise UserError(f"{len(set(order))} of {len(keys)} labelled volumes could be read; check the corpus' shards")
    back_S = torch.tensor(order).argsort()
    merged = {name: torch.cat([part[name] for part in parts])[back_S] for name in parts[0]}
    return Embedded(
        tokens={name: merged[f"tokens/{name}"] for name in encoders},
        pooled={name: merged[f"pooled/{name}"].numpy() for name in encoders},
        voxel_SF=merged["voxels"].numpy(),
        slice_SYX=merged["slices"].numpy(),
    )


def voxel_grid(size: Sequence[int]) -> tuple[int, int, int]:
    """Cells along z, y, x that the raw-voxel baseline sees of an input of that size."""
    depth, height, width = (min(VOXEL_GRID, max(axis // 2, 1)) for axis in size)
    return depth, height, width


def _keep(x_BCZYX: Tensor, tokens: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What stays of one batch, on the CPU."""
    voxels_BF = F.adaptive_avg_pool3d(x_BCZYX, voxel_grid(x_BCZYX.shape[2:])).flatten(1)
    kept = {"voxels": voxels_BF, "slices": x_BCZYX[:, 0, x_BCZYX.shape[2] // 2]}
    for name, token_BND in tokens.items():
        kept[f"tokens/{name}"] = token_BND.half()
        kept[f"pooled/{name}"] = token_BND.mean(dim=1)
    return {name: tensor.cpu() for name, tensor in kept.items()}


def _require_finite(token_BND: Tensor, keys: Sequence[str], name: str) -> None:
    finite_B = token_BND.isfinite().flatten(1).all(dim=1).tolist()
    broken = [key for key, finite in zip(keys, finite_B, strict=True) if not finite]
    if broken:
        raise UserError(
            f"the {name} encoder's embedding of volume {broken[0]} is not finite: the run has diverged; probe another run"
        )
