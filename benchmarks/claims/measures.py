"""What is measured of a training run, on people whom no run has seen; cached in the run's folder.

Axes: B batch, N volumes, D width, R bands, C channels, Z/Y/X voxels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from pretraining.runs import Bench, Measures, Run, measured_once
from pretraining.voxels import MASKS, as_spectral, explained_variance, mean_where
from torch import Tensor

from claims.gradients import pulls
from claims.power import BANDS, counted_patches, power_and_correlation
from claims.spread import spread_of
from mri_fm.config import Config, config_from_yaml
from mri_fm.data.corpus import Corpus
from mri_fm.data.loader import Batch, TrainLoader, evaluation_batches
from mri_fm.engine.weights import load_objective
from mri_fm.evaluate.evaluation import untrained
from mri_fm.models.vit import VisionTransformer
from mri_fm.objectives.jepa import JEPA
from mri_fm.objectives.mae_spectral import MAESpectral
from mri_fm.observe.collapse import cosine

CPU = torch.device("cpu")
BATCH = 8
NETWORKS = ("student", "teacher")


def mae_curve(bench: Bench, run: Run) -> dict[int, Measures]:
    """Gradients, voxel error and power before the first step and at every checkpoint."""
    folder = bench.folder(run)
    steps = [0, *bench.checkpoint_steps]
    return measured_once(folder / "claim1.json", steps, partial(measure_mae, bench.corpus, folder))


def measure_mae(corpus: Path, folder: Path, step: int) -> Measures:
    """`gradients.pulls` batch by batch; the rest has one value for each person, mean over `MASKS` masks."""
    objective, config = as_spectral(folder, step)
    batches = held_out(corpus, config, MASKS)
    found: Measures = dict(pulls(objective, batches))
    by_volume: dict[str, list[Tensor]] = {}
    for batch in batches:
        for name, value_B in _reconstruction(objective, batch).items():
            by_volume.setdefault(name, []).append(value_B)
    return found | {name: torch.cat(parts).unflatten(0, (MASKS, -1)).mean(0).tolist() for name, parts in by_volume.items()}


def held_out(corpus: Path, config: Config, times: int) -> list[Batch]:
    """Centre crops of the people held out, all of them `times` times one after the other; positions differ, and so masks do."""
    opened = Corpus.open(corpus, "size")
    return list(evaluation_batches(opened, opened.select("test") * times, config.data, batch_size=BATCH, device=CPU))


@torch.no_grad()
def _reconstruction(objective: MAESpectral, batch: Batch) -> dict[str, Tensor]:
    mosaic, hidden = objective.reconstruct(batch)
    truth = batch.x_BCZYX
    counted_BN = counted_patches(hidden, batch.foreground_BCZYX, objective.student.patch)
    power_BR, correlation_BR = power_and_correlation(mosaic, truth, counted_BN, objective.student.patch)
    return {
        "voxel_error": mean_where(hidden, (mosaic - truth).square() / 2),
        "explained": explained_variance(mosaic, truth, hidden & batch.foreground_BCZYX),
        **{power(band): power_BR[:, band] for band in range(len(BANDS))},
        **{correlation(band): correlation_BR[:, band] for band in range(len(BANDS))},
    }


def power(band: int) -> str:
    """The name of a band's power ratio."""
    return f"power {BANDS[band][0]:g} to {BANDS[band][1]:g}"


def correlation(band: int) -> str:
    """The name of a band's correlation with the truth."""
    return f"correlation {BANDS[band][0]:g} to {BANDS[band][1]:g}"


def jepa_curve(bench: Bench, run: Run, views: int) -> dict[int, Measures]:
    """Spread over people at every checkpoint, and over `views` views of each at the end.

    Before the first step, too, of `jepa`, whose initial weights all arms of a seed share.
    """
    folder, ends = bench.folder(run), (0, bench.steps)
    steps = [*([0] if run.objective == "jepa" else []), *bench.checkpoint_steps]
    return measured_once(
        folder / "claim2.json", steps, lambda step: measure_jepa(bench.corpus, folder, step, views if step in ends else 0)
    )


def measure_jepa(corpus: Path, folder: Path, step: int, views: int) -> Measures:
    """`spread.spread_of` by network and "people" or "views", and the student's and teacher's "agreement" on each person."""
    config = config_from_yaml(folder / "config.yaml")
    objective = load_objective(folder, step).objective if step else untrained(config)
    assert isinstance(objective, JEPA)
    people = held_out(corpus, config, 1)
    found: Measures = {"agreement": torch.cat([_agreement(objective, batch) for batch in people]).tolist()}
    sets: dict[str, Iterable[Batch]] = {"people": people} | ({"views": augmented(corpus, config, views)} if views else {})
    for volumes, batches in sets.items():
        for network, features_ND in zip(NETWORKS, pooled([objective.student, objective.teacher], batches), strict=True):
            found |= {f"{network} {volumes} {name}": values for name, values in spread_of(features_ND).items()}
    return found


@torch.no_grad()
def _agreement(objective: JEPA, batch: Batch) -> Tensor:
    x_BCZYX, spacing_B3 = batch.x_BCZYX, batch.spacing_B3
    return cosine(objective.student(x_BCZYX, spacing_B3=spacing_B3), objective.teacher(x_BCZYX, spacing_B3=spacing_B3))


@torch.no_grad()
def pooled(encoders: Sequence[VisionTransformer], batches: Iterable[Batch]) -> list[Tensor]:
    """Mean tokens of whole volumes by each encoder, (N, D)."""
    rows = [[encoder(batch.x_BCZYX, spacing_B3=batch.spacing_B3).mean(dim=1) for encoder in encoders] for batch in batches]
    return [torch.cat(parts) for parts in zip(*rows, strict=True)]


def augmented(corpus: Path, config: Config, views: int) -> Iterator[Batch]:
    """`views` views of each of the people held out, under the augmentation of training; the same for all runs of a corpus."""
    opened = Corpus.open(corpus, "size")
    samples = opened.select("test")
    loader = TrainLoader(
        opened, samples, config.data, seed=0, global_batch=len(samples), accumulation=1, rank=0, world=1, device=CPU
    )
    try:
        yield from (next(loader) for _ in range(views))  # a batch is an epoch: everybody once
    finally:
        loader.close()
