"""What a run of the MAE family reconstructs of volumes that no run has seen: voxels, and the spectrum band by band.

Axes: B batch, C channels (1), Z/Y/X voxels or frequencies.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from mri_fm.config import Config, config_from_yaml
from mri_fm.data.corpus import Corpus
from mri_fm.data.loader import Batch, evaluation_batches
from mri_fm.engine.weights import load_objective
from mri_fm.evaluate.evaluation import untrained
from mri_fm.losses.spectral import Spectrum, zscore
from mri_fm.models.patches import Size3
from mri_fm.models.vit import as_size3
from mri_fm.objectives.mae_spectral import MAESpectral, MAESpectralConfig
from pretraining.runs import Bench, Measures, Run, measured_once

Band = tuple[float, float]
BANDS: tuple[Band, ...] = ((0.0, 0.1), (0.1, 0.3), (0.3, 0.6), (0.6, 1.0))
"""Of the largest frequency, that at the corner of the spectrum; the published cut-off lies between the second and the third."""
ABOVE_CUTOFF: Band = (0.3, 1.0)
MASKS = 2  # masks of each volume, the same for every run
VOLUME = (1, 2, 3, 4)


def log_magnitude(band: Band) -> str:
    """The name of a band's error of log1p magnitudes, squared, mean over its bins: what the spectral loss asks for."""
    return f"log_magnitude {_span(band)}"


def relative(band: Band) -> str:
    """The name of a band's Σ|R − G|² / Σ|G|², which sees the phase; 1 is what predicting nothing would score."""
    return f"relative {_span(band)}"


def _span(band: Band) -> str:
    return f"{band[0]:g} to {band[1]:g}"


def voxel_curve(bench: Bench, run: Run) -> dict[int, Measures]:
    """`measure` at every checkpoint; what the run's folder holds already is not computed again."""
    folder = bench.folder(run)
    return measured_once(folder / "voxels.json", bench.checkpoint_steps, partial(measure, bench.corpus, folder))


def measure(corpus_root: Path, folder: Path, step: int) -> Measures:
    """All tokens, centre crops of the val split, `MASKS` masks of each volume: the same task for every run.

    One value for each volume and mask; `gradient_ratio` has one for each batch.
    """
    objective, config = as_spectral(folder, step)
    corpus = Corpus.open(corpus_root, "size")
    samples = corpus.select("val") * MASKS
    batches = evaluation_batches(corpus, samples, config.data, batch_size=8, device=torch.device("cpu"))
    measures: Measures = {}
    for batch in batches:
        for name, values in _measure_batch(objective, batch).items():
            measures.setdefault(name, []).extend(values)
    return measures


def as_spectral(folder: Path, step: int) -> tuple[MAESpectral, Config]:
    """The network of a run of the MAE family at a step, 0 being before the first, with what its spectral loss would ask for."""
    config = config_from_yaml(folder / "config.yaml")
    weights = (load_objective(folder, step).objective if step else untrained(config)).state_dict()
    objective = MAESpectral(MAESpectralConfig(), config.model, as_size3(config.data.size), seed=0).eval()
    objective.load_state_dict(weights)
    return objective, config


def _measure_batch(objective: MAESpectral, batch: Batch) -> Measures:
    _, metrics = objective(batch, {"spectral_weight": 0.0})  # with a graph: the gradients' norms come from the forward pass
    mosaic, hidden = objective.reconstruct(batch)
    truth = batch.x_BCZYX
    measures = {
        "gradient_ratio": [float(metrics["spectral_gradient_ratio"])],
        "voxel_error": mean_where(hidden, (mosaic - truth).square() / 2).tolist(),
        "explained": explained_variance(mosaic, truth, hidden & batch.foreground_BCZYX).tolist(),
    }
    R, G = (torch.fft.fftn(zscore(x), dim=(2, 3, 4)) for x in (mosaic, truth))
    log_error = (torch.log1p(R.abs()) - torch.log1p(G.abs())).square()
    for band in (*BANDS, ABOVE_CUTOFF):
        inside = _inside(as_size3(list(truth.shape[2:])), band)
        error, energy = (mean_where(inside, X.abs().square()) for X in (R - G, G))
        measures[log_magnitude(band)] = mean_where(inside, log_error).tolist()
        measures[relative(band)] = (error / energy).tolist()
    return measures


def _inside(size: Size3, band: Band) -> Tensor:
    radius = Spectrum().radius(size, half=False)
    return (radius >= band[0]) & ((radius < band[1]) | (band[1] == 1.0))


def mean_where(where: Tensor, values: Tensor) -> Tensor:
    """Mean of each sample over the places that are asked for."""
    weight = where.expand_as(values).float()
    return (values * weight).sum(VOLUME) / weight.sum(VOLUME)


def explained_variance(mosaic: Tensor, truth: Tensor, where: Tensor) -> Tensor:
    """1 − squared error / variance over the places that are asked for; comparable between ways of z-scoring."""
    spread = (truth - mean_where(where, truth)[:, None, None, None, None]).square()
    return 1 - mean_where(where, (mosaic - truth).square()) / mean_where(where, spread)
