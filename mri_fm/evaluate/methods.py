"""The methods of a table: which features each reads, and how it is fitted.

Axes: V volumes, S units, C contrasts of a unit, F features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from mri_fm.data.corpus import Sample
from mri_fm.errors import UserError, nearest
from mri_fm.evaluate.attentive import fit_attentive
from mri_fm.evaluate.cache import Embedded
from mri_fm.evaluate.features import Features, gather
from mri_fm.evaluate.finetune import Tuning, fit_tuned, pack
from mri_fm.evaluate.linear import fit_linear, fit_neighbours, fit_voxels
from mri_fm.evaluate.nuisance import head_and_grid, one_hot
from mri_fm.evaluate.supervised import fit_supervised
from mri_fm.evaluate.task import Task
from mri_fm.evaluate.training import Fit, Fitted
from mri_fm.models.vit import VisionTransformer

TRAINED, RANDOM = "trained", "random_init"
VOXELS, NUISANCE, SUPERVISED, PERMUTED = "raw_voxel", "nuisance", "supervised", "label_permutation"


@dataclass(frozen=True)
class Probe:
    """A way to read an encoder: what of its tokens, and by which model."""

    readout: str
    fit: Callable[..., Fitted]  # a `Fit` once its options are given
    title: str


PROBES = {
    "linear": Probe("pooled", fit_linear, "linear probe"),
    "attentive": Probe("tokens", fit_attentive, "attentive probe"),
    "neighbours": Probe("pooled", fit_neighbours, "nearest neighbours"),
    "regions": Probe("regions", fit_voxels, "region-pooled linear probe"),
}
HEADLINE = "linear"  # fixed before any result is seen
TITLES = {
    VOXELS: "raw voxels, PCA and linear model",
    NUISANCE: "nuisance only: intensity, head size, grid, site",
    SUPERVISED: "supervised network from scratch",
    PERMUTED: "headline probe on permuted labels",
}


def title_of(method: str) -> str:
    """A method's name in the report."""
    probe, _, encoder = method.partition("/")
    if not encoder:
        return TITLES.get(method, method)
    read = PROBES[probe].title if probe in PROBES else probe.replace("finetuned_", "fine-tuned, ")
    return f"{read}, {'random' if encoder == RANDOM else encoder} encoder"


def choose_probes(names: Sequence[str]) -> tuple[str, ...]:
    """Probes by name, the headline always among them.

    Raises:
        UserError: an unknown name (the nearest is given).
    """
    for name in names:
        if name not in PROBES:
            raise UserError(f"--probes {name}: no such probe{nearest(name, list(PROBES))}; there are {', '.join(PROBES)}")
    return tuple(name for name in PROBES if name in names or name == HEADLINE)


def random_name(seed: int) -> str:
    """The name of the `seed`-th encoder at random weights."""
    return f"{RANDOM}.{seed}"


@dataclass(frozen=True)
class Method:
    """One line of the table: its features for each refit (one for all, or one each), and its fit."""

    features: tuple[Features, ...]
    fit: Fit

    def of_refit(self, refit: int) -> Features:
        """The features that a refit reads."""
        return self.features[refit % len(self.features)]


def methods_of(
    task: Task,
    embedded: Embedded,
    samples: Sequence[Sample],
    *,
    probes: Sequence[str],
    heads: int,
    tunings: Sequence[str] = (),
    encoders: Mapping[str, VisionTransformer] | None = None,
) -> dict[str, Method]:
    """Every method of the table but the permuted labels; the baselines are not optional.

    Args:
        task: whose units are scored.
        embedded: rows of the task's volumes; encoders are `TRAINED` and `RANDOM.0`, `RANDOM.1`, ….
        samples: the task's volumes.
        probes: names of `PROBES`.
        heads: attention heads of the attentive probe.
        tunings: ways to fine-tune, see `Tuning.parse`.
        encoders: where that starts: `TRAINED`, and `RANDOM` to compare with.
    """
    seeds = sorted(name for name in embedded.encoders if name.startswith(f"{RANDOM}."))
    methods: dict[str, Method] = {}
    for name in probes:
        if name == "neighbours" and task.target.kind == "survival":
            continue
        probe = PROBES[name]
        fit = partial(probe.fit, fusion=task.spec.fusion, **({"heads": heads} if name == "attentive" else {}))
        for encoder, sources in ((TRAINED, [TRAINED]), (RANDOM, seeds)):
            features = tuple(to_units(task, embedded.encoders[source][probe.readout]) for source in sources)
            methods[f"{name}/{encoder}"] = Method(features, fit)
    for tuning in tunings:
        rows = (to_units(task, pack(embedded.inputs["whole"], embedded.inputs["spacing"])),)
        for name, network in (encoders or {}).items():
            fit = partial(fit_tuned, encoder=network, heads=heads, tuning=Tuning.parse(tuning))
            methods[f"finetuned_{tuning}/{name}"] = Method(rows, fit)
    methods[VOXELS] = Method((to_units(task, embedded.inputs["voxels"]),), partial(fit_voxels, fusion=task.spec.fusion))
    methods[NUISANCE] = Method((nuisance_features(task, embedded, samples),), fit_linear)
    methods[SUPERVISED] = Method((to_units(task, embedded.inputs["volumes"]),), fit_supervised)
    return methods


def to_units(task: Task, value_V: Any) -> Features:
    """Rows of volumes as features of the task's units."""
    return gather(value_V, task.unit_V, task.slot_V, len(task.target), len(task.slots))


def nuisance_features(task: Task, embedded: Embedded, samples: Sequence[Sample]) -> Features:
    """Moments of the input, head size and grid, averaged over a unit's contrasts; which contrasts it has; its site."""
    grid_VF = head_and_grid(samples)
    scanned = to_units(task, torch.cat([embedded.inputs["moments"], torch.from_numpy(grid_VF)], dim=1))
    parts = [scanned.mean()]
    if len(task.slots) > 1:
        parts.append(scanned.present_SC.astype(np.float64))
    parts += [one_hot(task.covariates[name]) for name in ("site", "scanner") if name in task.covariates]
    return Features.plain(np.concatenate(parts, axis=1))
