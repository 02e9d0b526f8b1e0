"""Every volume once through the frozen encoders.

Axes: B batch, V volumes, C channels, N tokens, D width, F features, R regions, Z/Y/X voxels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mri_fm.data.loader import Batch
from mri_fm.errors import UserError
from mri_fm.evaluate.nuisance import intensity_moments
from mri_fm.models.vit import VisionTransformer, as_size3

VOXEL_GRID = 16  # the raw-voxel baseline sees at most this many cells along an axis
SUPERVISED_GRID = 64  # and the supervised network this many
REGIONS = 3  # parts along each axis over which the region-pooled readout averages tokens
READOUTS = ("tokens", "pooled", "regions")


def embed(
    encoders: Mapping[str, VisionTransformer],
    batches: Iterable[Batch],
    keys: Sequence[str],
    device: torch.device,
    *,
    readouts: Sequence[str] = READOUTS,
    whole_input: bool = False,
) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
    """Run the encoders over deterministic evaluation batches.

    Args:
        encoders: frozen networks by name.
        batches: `positions_B` are indices into `keys`.
        keys: the volumes' keys.
        device: where the encoders run.
        readouts: what is kept of an encoder's tokens: tokens, float16 (B, N, D); pooled, float32 (B, D), their mean; regions,
            float32 (B, R·D), their means over `REGIONS`³ parts of the grid.
        whole_input: keep the input itself too, for fine-tuning.

    Yields:
        Places in `keys`, and of the volumes there, on the CPU: "NAME/READOUT" of each encoder, and "input/…": "voxels" (B, F),
        at low resolution; "volumes", float16 (B, Z, Y, X), at most `SUPERVISED_GRID` along an axis; "slices" (B, Y, X), the
        middle one; "moments" (B, 9); "spacing" (B, 3); "whole", float16 (B, Z, Y, X), if asked for.

    Raises:
        UserError: an embedding is not finite.
    """
    networks = {name: encoder.to(device).eval() for name, encoder in encoders.items()}
    for batch in batches:
        positions = batch.positions_B.tolist()
        part = _read_batch(networks, batch, [keys[p] for p in positions], device, readouts)
        if whole_input:
            part["input/whole"] = batch.x_BCZYX[:, 0].half().cpu()
        yield positions, part


@torch.inference_mode()
def _read_batch(
    networks: Mapping[str, VisionTransformer], batch: Batch, keys: Sequence[str], device: torch.device, readouts: Sequence[str]
) -> dict[str, Tensor]:
    x_BCZYX, spacing_B3 = batch.x_BCZYX.to(device, torch.float32), batch.spacing_B3.to(device)
    found = _of_input(x_BCZYX, batch.foreground_BCZYX.to(device)) | {"spacing": spacing_B3}
    part = {f"input/{name}": tensor for name, tensor in found.items()}
    for name, encoder in networks.items():
        token_BND = encoder(x_BCZYX, spacing_B3=spacing_B3).float()
        _require_finite(token_BND, keys, name)
        grid = tuple(n // p for n, p in zip(x_BCZYX.shape[2:], encoder.patch, strict=True))
        part |= {f"{name}/{readout}": read_tokens(token_BND, grid, readout) for readout in readouts}
    return {name: tensor.cpu() for name, tensor in part.items()}


def voxel_grid(size: Sequence[int], most: int = VOXEL_GRID) -> tuple[int, int, int]:
    """Cells along z, y, x that the raw-voxel baseline sees of an input of that size."""
    depth, height, width = (min(most, max(axis // 2, 1)) for axis in size)
    return depth, height, width


def _of_input(x_BCZYX: Tensor, foreground_BCZYX: Tensor) -> dict[str, Tensor]:
    """What stays of the input of one batch."""
    size = x_BCZYX.shape[2:]
    volume_BCZYX = F.adaptive_avg_pool3d(x_BCZYX, as_size3([min(n, SUPERVISED_GRID) for n in size]))
    return {
        "voxels": F.adaptive_avg_pool3d(x_BCZYX, voxel_grid(size)).flatten(1),
        "volumes": volume_BCZYX[:, 0].half(),
        "slices": x_BCZYX[:, 0, size[0] // 2],
        "moments": intensity_moments(x_BCZYX, foreground_BCZYX),
    }


def read_tokens(token_BND: Tensor, grid: tuple[int, ...], readout: str) -> Tensor:
    """One of `READOUTS` of the tokens of a grid (see `embed`)."""
    if readout == "tokens":
        return token_BND.half()
    if readout == "pooled":
        return token_BND.mean(dim=1)
    token_BDZYX = token_BND.mT.unflatten(2, grid)
    return F.adaptive_avg_pool3d(token_BDZYX, as_size3([min(REGIONS, n) for n in grid])).flatten(1)


def _require_finite(token_BND: Tensor, keys: Sequence[str], name: str) -> None:
    finite_B = token_BND.isfinite().flatten(1).all(dim=1).tolist()
    broken = [key for key, finite in zip(keys, finite_B, strict=True) if not finite]
    if broken:
        raise UserError(
            f"the {name} encoder's embedding of volume {broken[0]} is not finite: the run has diverged; probe another run"
        )
