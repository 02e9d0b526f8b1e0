"""What a run of the MAE family reconstructs of volumes that no run has seen: voxels, and the spectrum band by band.

Axes: B batch, C channels (1), Z/Y/X voxels or frequencies.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from mri_fm.data.corpus import Corpus
from mri_fm.data.loader import Batch, evaluation_batches
from mri_fm.engine.weights import load_objective
from mri_fm.losses.spectral import Spectrum, zscore
from mri_fm.models.patches import Size3
from mri_fm.models.vit import as_size3
from mri_fm.objectives.mae_spectral import MAESpectral, MAESpectralConfig
from pretraining.runs import Bench, Run

Band = tuple[float, float]
BANDS: tuple[Band, ...] = ((0.0, 0.1), (0.1, 0.3), (0.3, 0.6), (0.6, 1.0))
"""Of the largest frequency, that at the corner of the spectrum; the published cut-off lies between the second and the third."""
ABOVE_CUTOFF: Band = (0.3, 1.0)
MASKS = 2  # masks of each volume, the same for every run
VOLUME = (1, 2, 3, 4)
Measures = dict[str, list[float]]
"""One value for each volume and mask; `gradient_ratio` one for each batch."""


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
    file = bench.folder(run) / "voxels.json"
    known = {int(step): values for step, values in (json.loads(file.read_text()) if file.is_file() else {}).items()}
    for step in bench.checkpoint_steps:
        if step not in known:
            known[step] = measure(bench.corpus, bench.folder(run), step)
            file.write_text(json.dumps(known))
    return known


def measure(corpus_root: Path, folder: Path, step: int) -> Measures:
    """All tokens, centre crops of the val split, `MASKS` masks of each volume: the same task for every run."""
    loaded = load_objective(folder, step)
    objective = MAESpectral(MAESpectralConfig(), loaded.config.model, as_size3(loaded.config.data.size), seed=0).eval()
    objective.load_state_dict(loaded.objective.state_dict())
    corpus = Corpus.open(corpus_root, "size")
    samples = corpus.select("val") * MASKS
    batches = evaluation_batches(corpus, samples, loaded.config.data, batch_size=8, device=torch.device("cpu"))
    measures: Measures = {}
    for batch in batches:
        for name, values in _measure_batch(objective, batch).items():
            measures.setdefault(name, []).extend(values)
    return measures


def _measure_batch(objective: MAESpectral, batch: Batch) -> Measures:
    _, metrics = objective(batch, {"spectral_weight": 0.0})  # with a graph: the gradients' norms come from the forward pass
    mosaic, hidden = objective.reconstruct(batch)
    truth = batch.x_BCZYX
    measures = {
        "gradient_ratio": [float(metrics["spectral_gradient_ratio"])],
        "voxel_error": _mean_where(hidden, (mosaic - truth).square() / 2).tolist(),
        "explained": _explained(mosaic, truth, hidden & batch.foreground_BCZYX).tolist(),
    }
    R, G = (torch.fft.fftn(zscore(x), dim=(2, 3, 4)) for x in (mosaic, truth))
    log_error = (torch.log1p(R.abs()) - torch.log1p(G.abs())).square()
    for band in (*BANDS, ABOVE_CUTOFF):
        inside = _inside(as_size3(list(truth.shape[2:])), band)
        error, energy = (_mean_where(inside, X.abs().square()) for X in (R - G, G))
        measures[log_magnitude(band)] = _mean_where(inside, log_error).tolist()
        measures[relative(band)] = (error / energy).tolist()
    return measures


def _inside(size: Size3, band: Band) -> Tensor:
    radius = Spectrum().radius(size, half=False)
    return (radius >= band[0]) & ((radius < band[1]) | (band[1] == 1.0))


def _mean_where(where: Tensor, values: Tensor) -> Tensor:
    """Mean of each sample over the places that are asked for."""
    weight = where.expand_as(values).float()
    return (values * weight).sum(VOLUME) / weight.sum(VOLUME)


def _explained(mosaic: Tensor, truth: Tensor, where: Tensor) -> Tensor:
    """1 − squared error / variance over the places that are asked for; comparable between ways of z-scoring."""
    spread = (truth - _mean_where(where, truth)[:, None, None, None, None]).square()
    return 1 - _mean_where(where, (mosaic - truth).square()) / _mean_where(where, spread)
