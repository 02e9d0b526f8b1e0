"""What the network makes of a fixed batch: collapse, attention, reconstruction, the loss of each data set and contrast.

Axes: B batch, N volumes, D width, Q views, L layers, R bands, T tokens.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import nullcontext

import torch
from torch import Tensor

from mri_fm.inputs import Inputs
from mri_fm.models.patches import patch_grid
from mri_fm.models.vit import as_size3
from mri_fm.objectives import Objective
from mri_fm.objectives.jepa import JEPA
from mri_fm.objectives.mae import MAE
from mri_fm.observe.attention import AttentionEntropy
from mri_fm.observe.bands import band_errors
from mri_fm.observe.collapse import alpha_req, cosine, dimension_std, effective_rank, feature_std, lidar, rankme
from mri_fm.observe.draw import Arrays
from mri_fm.observe.fixed import FixedBatch, first_of

VIEWS = 4  # masks of each volume that LiDAR compares


class Observer:
    """Looks at one fixed batch; all ranks call together and get the same values, on their devices."""

    def __init__(self, objective: Objective, fixed: FixedBatch, *, compiled: bool = False) -> None:
        """Take the objective in its engine; `compiled` blocks, which hide their attention, run eagerly here."""
        self._objective, self._fixed, self._compiled = objective, fixed, compiled

    @torch.no_grad()
    def observe(self) -> dict[str, Tensor]:
        """Scalars by the names of metrics.jsonl; none where fewer than two volumes can be read.

        Features are the student's mean-pooled tokens of whole volumes; `lidar` compares those of visible tokens under `VIEWS`
        masks. Masks are the same at each call.
        """
        with torch.compiler.set_stance("force_eager") if self._compiled else nullcontext():
            columns = [self._look(batch) for batch in self._fixed.batches()]
        rows = {name: self._fixed.gather(torch.cat([part[name] for part in columns])) for name in columns[0]}
        if len(self._fixed.samples) < 2:
            return {}
        return {**self._collapse(rows), **self._by_layer_and_band(rows), **self._by_group(rows["loss"][:, 0])}

    @torch.no_grad()
    def picture(self) -> Arrays:
        """Arrays of the first rank's first volume for `mri_fm.observe.pictures`; by all ranks, of which others get their own.

        Truth and, where the objective reconstructs, mosaic and hidden (Z, Y, X); with a teacher its tokens (Z, Y, X, D).
        """
        objective, batch = self._objective, first_of(next(self._fixed.batches()))
        arrays = {"truth": batch.x_BCZYX[0, 0]}
        if isinstance(objective, MAE):
            mosaic_BCZYX, hidden_BCZYX = objective.reconstruct(batch)
            arrays |= {"mosaic": mosaic_BCZYX[0, 0], "hidden": hidden_BCZYX[0, 0]}
        if isinstance(objective, JEPA):
            token_BND = objective.teacher(batch.x_BCZYX, spacing_B3=batch.spacing_B3).float()
            grid = patch_grid(as_size3(batch.x_BCZYX.shape[2:]), objective.teacher.patch)
            arrays["tokens"] = token_BND[0].unflatten(0, grid)
        return {name: tensor.cpu().numpy() for name, tensor in arrays.items()}

    def _look(self, batch: Inputs) -> dict[str, Tensor]:
        """Rows (B, …) of everything that is known volume by volume."""
        objective = self._objective
        with AttentionEntropy() as attention:
            student_BTD = objective.student(batch.x_BCZYX, spacing_B3=batch.spacing_B3)
        masks = [objective.mask(batch, set_index=index) for index in range(VIEWS)]
        views_BQD = torch.stack([objective.encode(batch, mask).float().mean(dim=1) for mask in masks], dim=1)
        rows = {
            "features": student_BTD.float().mean(dim=1),
            "views": views_BQD.flatten(1),
            "attention_entropy": attention.per_layer(),
            "loss": objective.sample_losses(batch)[:, None],
        }
        if isinstance(objective, JEPA):
            rows["teacher_cosine"] = cosine(student_BTD, objective.teacher(batch.x_BCZYX, spacing_B3=batch.spacing_B3))[:, None]
        if isinstance(objective, MAE):
            mosaic_BCZYX, _ = objective.reconstruct(batch)
            rows["spectral_error"], rows["spectral_power"] = band_errors(mosaic_BCZYX, batch.x_BCZYX)
        return rows

    def _collapse(self, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        features_ND, views_NQD = rows["features"], rows["views"].unflatten(1, (VIEWS, -1))
        found = {"feature_std": feature_std(features_ND), **dimension_std(features_ND)}
        for metric in (rankme, effective_rank, alpha_req):
            found[metric.__name__] = metric(features_ND)
        found["lidar"] = lidar(views_NQD)
        if "teacher_cosine" in rows:
            found["teacher_cosine"] = rows["teacher_cosine"].mean()
        return found

    def _by_layer_and_band(self, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        """Means over the volumes."""
        found: dict[str, Tensor] = {}
        for name, part in (("attention_entropy", "block"), ("spectral_error", "band"), ("spectral_power", "band")):
            if name in rows:
                found |= {f"{name}/{part}_{number:02d}": mean for number, mean in enumerate(rows[name].mean(dim=0))}
        return found

    def _by_group(self, loss_N: Tensor) -> dict[str, Tensor]:
        """Mean loss of the volumes of each data set and of each contrast."""
        groups: dict[str, list[int]] = defaultdict(list)
        for row, sample in enumerate(self._fixed.samples):
            groups[f"loss_dataset/{sample.dataset}"].append(row)
            groups[f"loss_contrast/{sample.contrast}"].append(row)
        return {name: torch.stack([loss_N[row] for row in rows]).mean() for name, rows in sorted(groups.items())}
