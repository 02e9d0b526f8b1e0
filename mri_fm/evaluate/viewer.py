"""What the frozen encoder does with a few units, for the viewer of the page: attention, similarity of tokens, occlusion.

Axes: C channels, Z/Y/X voxels along the input's depth, height, width, N tokens, M cells, L layers, H heads, W registers and
cells, B batch, F features, S units, K outputs. What a `View` holds is in the order of the anatomical axes z, y, x instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mri_fm.data.corpus import Sample
from mri_fm.data.loader import Batch
from mri_fm.data.params import centre_params
from mri_fm.engine.environment import Environment
from mri_fm.evaluate.attention_maps import Cells, attention_weights, rollout, similarity
from mri_fm.evaluate.embed import read_tokens
from mri_fm.evaluate.examples import Verdict
from mri_fm.evaluate.features import Features
from mri_fm.evaluate.occlusion import Blocks, block_sizes, score_drops
from mri_fm.evaluate.target import Floats
from mri_fm.evaluate.task import Task
from mri_fm.evaluate.volumes import Volumes
from mri_fm.models.patches import Size3, patch_grid
from mri_fm.models.vit import VisionTransformer, as_size3

MOST_VIEWED = 6  # units of each kind
MOST_MAP_BYTES = 4 << 20  # of attention and similarity, for each unit: how large the page may become
MOST_VOXELS = 96  # along an axis of the pictures
Item = TypeVar("Item")
Scorer = Callable[[int, Features], Floats]
"""Scores (S, K) by the probe that tested a unit, of that unit with other features."""


@dataclass(frozen=True, eq=False)
class Source:
    """The frozen encoder, and the task's volumes."""

    encoder: VisionTransformer
    volumes: Volumes
    environment: Environment


@dataclass(frozen=True, eq=False)
class Probed:
    """The probe whose scores are explained.

    Attributes:
        task: what it was asked.
        features: of all units, as it reads them.
        readout: what of the tokens they are.
        score: asks it.
    """

    task: Task
    features: Features
    readout: str
    score: Scorer


@dataclass(frozen=True, eq=False)
class CellMap:
    """A value (M, M) of every two cells; a row for the cell that is asked.

    Attributes:
        kind: similarity, rollout, attention.
        layer, head: of attention, from 1; head 0 is the mean over heads.
    """

    kind: str
    value_MM: Tensor
    layer: int = 0
    head: int = 0


@dataclass(frozen=True, eq=False)
class Occlusion:
    """By how much the score falls where blocks with these edges in mm are covered, (M,)."""

    edge_mm: tuple[float, ...]
    drop_M: Tensor


@dataclass(frozen=True, eq=False)
class View:
    """One unit of the viewer, along z, y, x.

    Attributes:
        verdict, name: which, and what was said of it.
        volume_ZYX: uint8.
        extent: of the volume in mm.
        grid: cells.
        maps: what can be asked of a cell.
        score: of the whole volume, see `score_name`.
        occlusions: a size of block each.
        registers: tokens that lie nowhere and take a share of the attention.
    """

    verdict: Verdict
    name: str
    volume_ZYX: Tensor
    extent: tuple[float, ...]
    grid: tuple[int, ...]
    maps: tuple[CellMap, ...]
    score: float
    occlusions: tuple[Occlusion, ...]
    registers: int


def view_units(chosen: Sequence[Verdict], probed: Probed, source: Source) -> Iterator[View]:
    """Look into units one after the other; of a unit's volumes the first is shown and covered, the others stay as they are.

    Args:
        chosen: the units.
        probed: the probe.
        source: of inputs and tokens.
    """
    rows = [int(np.flatnonzero(probed.task.unit_V == verdict.unit)[0]) for verdict in chosen]
    source.encoder.to(source.environment.device).eval()
    batches = replace(source.volumes.some(rows), batch_size=1).batches(source.environment)
    for verdict, row, batch in zip(chosen, rows, batches, strict=True):
        seen = _Input.of(batch, source.volumes.samples[row], source)
        cells = Cells.of_grid(seen.grid, seen.patch)
        score, occlusions = _occlusions(seen, row, cells, probed, source)
        picture_ZYX = _picture(seen.x_CZYX[0].cpu())
        yield View(
            verdict=verdict,
            name=probed.task.unit_names[verdict.unit],
            volume_ZYX=picture_ZYX.movedim(0, seen.depth_axis),
            extent=seen.turned([n * mm for n, mm in zip(seen.x_CZYX.shape[1:], seen.spacing_3.tolist(), strict=True)]),
            grid=seen.turned(cells.grid),
            maps=_cell_maps(seen, cells, source.encoder),
            score=score,
            occlusions=occlusions,
            registers=source.encoder.registers,
        )


def most_passes(grid: Size3, units: int) -> int:
    """How often the encoder is asked at most for that many units."""
    return units * (2 + sum(len(blocks.start_K) for blocks in block_sizes(grid)))


def score_name(kind: str) -> str:
    """What `View.score` is, by kind of target."""
    return {"classification": "log odds of the class said", "regression": "value said", "survival": "log hazard"}[kind]


@dataclass(frozen=True, eq=False)
class _Input:
    """A volume as the encoder is fed."""

    x_CZYX: Tensor
    foreground_CZYX: Tensor
    spacing_3: Tensor
    patch: Size3
    grid: Size3
    depth_axis: int  # where the input's first axis lies among z, y, x

    @classmethod
    def of(cls, batch: Batch, sample: Sample, source: Source) -> _Input:
        """The first of a batch."""
        data, patch, device = source.volumes.data, as_size3(source.encoder.patch), source.environment.device
        plane, crop = data.evaluation.plane, data.evaluation.crop
        params = centre_params(sample.shape, data.size, spacing=sample.spacing, plane=plane, crop=crop)
        return cls(
            x_CZYX=batch.x_BCZYX[0].to(device, torch.float32),
            foreground_CZYX=batch.foreground_BCZYX[0].to(device),
            spacing_3=batch.spacing_B3[0].to(device),
            patch=patch,
            grid=patch_grid(as_size3(batch.x_BCZYX.shape[2:]), patch),
            depth_axis=params.depth_axis,
        )

    def turned(self, along: Sequence[Item]) -> tuple[Item, ...]:
        """What is given along depth, height, width, along z, y, x."""
        rest = list(along)
        rest.insert(self.depth_axis, rest.pop(0))
        return tuple(rest)

    def turned_cells(self, grid: Size3) -> Tensor:
        """Numbers of the cells in raster order of z, y, x."""
        return torch.arange(grid[0] * grid[1] * grid[2]).view(grid).movedim(0, self.depth_axis).flatten()


def _cell_maps(seen: _Input, cells: Cells, encoder: VisionTransformer) -> tuple[CellMap, ...]:
    """Similarity, rollout, and of attention as much as may be kept: the last layer's heads, the other layers' mean over heads,
    then their heads."""
    weight_LHWW, token_ND = attention_weights(encoder, seen.x_CZYX, seen.spacing_3, cells)
    order_M, first = seen.turned_cells(cells.grid), encoder.registers
    layers, heads = weight_LHWW.shape[:2]
    found = [
        CellMap("similarity", similarity(token_ND, cells)),
        CellMap("rollout", rollout(weight_LHWW)[first:, first:]),
    ]
    wanted = [(layers, head) for head in range(heads + 1)] + [(layer, 0) for layer in range(layers - 1, 0, -1)]
    wanted += [(layer, head) for layer in range(layers - 1, 0, -1) for head in range(1, heads + 1)]
    for layer, head in wanted[: max(1, MOST_MAP_BYTES // cells.count**2 - len(found))]:
        weight_HWW = weight_LHWW[layer - 1]
        weight_WW = weight_HWW[head - 1] if head else weight_HWW.mean(dim=0)
        found.append(CellMap("attention", weight_WW[first:, first:], layer, head))
    return tuple(CellMap(m.kind, m.value_MM[order_M][:, order_M], m.layer, m.head) for m in found)


@torch.inference_mode()
def _occlusions(seen: _Input, row: int, cells: Cells, probed: Probed, source: Source) -> tuple[float, tuple[Occlusion, ...]]:
    """The score of the whole volume, and where it rests."""

    def read(x_BCZYX: Tensor) -> Tensor:
        token_BND = source.encoder(x_BCZYX, spacing_B3=seen.spacing_3.expand(len(x_BCZYX), 3))
        return read_tokens(token_BND.float(), seen.grid, probed.readout).cpu()

    sizes = block_sizes(seen.grid)
    ask = _asker(row, probed)
    score, drops = score_drops(
        seen.x_CZYX, seen.foreground_CZYX, sizes, seen.patch, read, ask, batch_size=source.volumes.batch_size
    )
    order_M = seen.turned_cells(cells.grid)
    found = [
        Occlusion(_edges(blocks, seen), cells.mean(drop_N[:, None])[order_M, 0])
        for blocks, drop_N in zip(sizes, drops, strict=True)
    ]
    return score, tuple(found)


def _edges(blocks: Blocks, seen: _Input) -> tuple[float, ...]:
    voxels = [min(blocks.edge, n) * p for n, p in zip(seen.grid, seen.patch, strict=True)]
    return seen.turned([n * mm for n, mm in zip(voxels, seen.spacing_3.tolist(), strict=True)])


def _asker(row: int, probed: Probed) -> Callable[[Tensor], Tensor]:
    """Scores of a unit of which one volume has other features; the first features are those that it has."""
    task, features = probed.task, probed.features
    unit, slot = int(task.unit_V[row]), int(task.slot_V[row])
    alike = int(((task.unit_V == unit) & (task.slot_V == slot)).sum())  # volumes of one contrast are averaged

    def ask(feature_BF: Tensor) -> Tensor:
        own = features[np.full(len(feature_BF), unit)]
        value_SC = torch.as_tensor(own.value_SC).clone()
        value_SC[:, slot] += ((feature_BF - feature_BF[:1]) / alike).to(value_SC.dtype)
        score_SK = torch.from_numpy(probed.score(unit, Features(value_SC, own.present_SC)))
        if task.target.kind != "classification":
            return score_SK[:, 0]
        return score_SK[:, int(score_SK[0].argmax())].logit(eps=1e-9)

    return ask


def _picture(x_ZYX: Tensor) -> Tensor:
    """The volume between its first and last percentiles as uint8, at most `MOST_VOXELS` along an axis."""
    x_ZYX = F.adaptive_avg_pool3d(x_ZYX[None, None], as_size3([min(n, MOST_VOXELS) for n in x_ZYX.shape]))[0, 0]
    low, high = np.percentile(x_ZYX.numpy(), [1, 99.7])
    return ((x_ZYX - low) / max(high - low, 1e-6) * 255).round().clamp(0, 255).to(torch.uint8)
