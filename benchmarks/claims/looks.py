"""A look at a run: every label by every reading, beside random encoders and what needs no encoder; each look is recorded.

Axes: V volumes (units), S units.
"""

from __future__ import annotations

import csv
import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pretraining.runs import Bench, Run

from claims.factorial import LABELS
from claims.gate_design import LEAST_GAIN, PRIMARY, RANDOM_ENCODERS
from mri_fm.config import config_from_yaml
from mri_fm.data.corpus import Corpus
from mri_fm.data.loader import evaluation_batches
from mri_fm.engine.weights import load_objective
from mri_fm.evaluate.compare import Comparison, compare, gain, measured
from mri_fm.evaluate.embed import embed
from mri_fm.evaluate.evaluation import choose_encoder, untrained
from mri_fm.evaluate.features import Features
from mri_fm.evaluate.linear import fit_linear, fit_voxels
from mri_fm.evaluate.methods import PROBES, RANDOM, TRAINED, Method, random_name
from mri_fm.evaluate.published import splits_of
from mri_fm.evaluate.spec import SplitSpec, TaskSpec
from mri_fm.evaluate.splits import Split
from mri_fm.evaluate.target import Target
from mri_fm.evaluate.task import resolve_task
from mri_fm.models.vit import VisionTransformer

READINGS = ("linear", "regions")
METRIC = "auroc"
RECORD = ("date", "run", "steps", "label", "reading", "primary", "auroc", "reference", "gain", "low", "high")
Figures = dict[str, Any]
"""A value and its 95 % interval over people."""
Look = dict[str, dict[str, Figures]]
"""By label and method: "linear/trained", "linear/random_init", "linear/gain", …, "raw_voxel", "nuisance"."""


def look_once(bench: Bench, run: Run, record: Path) -> Look:
    """The look at a finished run, taken once and kept in its folder; taking it adds a line for each label to `record`."""
    file = bench.folder(run) / "look.json"
    if not file.is_file():
        found = look(bench, run)
        file.write_text(json.dumps(found, indent=1))
        write_record(record, bench, run, found)
    return json.loads(file.read_text())


def write_record(record: Path, bench: Bench, run: Run, found: Look) -> None:
    """One line for each label and reading."""
    lines = []
    for label in LABELS:
        for reading in READINGS:
            trained, random, more = (found[label][f"{reading}/{name}"] for name in (TRAINED, RANDOM, "gain"))
            primary = int(PRIMARY.get(label) == reading)
            lines.append([run.name, bench.steps, label, reading, primary, trained["value"], random["value"], more])
    append_looks(record, lines)


def append_looks(record: Path, lines: Sequence[Sequence[Any]]) -> None:
    """Add lines of run, steps, label, reading, whether that is primary, AUROC, that of the reference, and what is gained."""
    is_new = not record.is_file()
    with record.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if is_new:
            writer.writerow(RECORD)
        for *named, value, reference, more in lines:
            numbers = [value, reference, more["value"], *more["interval"]]
            writer.writerow([datetime.date.today(), *named, *(f"{number:.4f}" for number in numbers)])


def passed(found: Look) -> list[str]:
    """The primary tasks on which the run's encoder passes."""
    gains = {label: found[label][f"{reading}/gain"] for label, reading in PRIMARY.items()}
    return [label for label, more in gains.items() if more["value"] >= LEAST_GAIN and more["interval"][0] > 0]


def look(bench: Bench, run: Run) -> Look:
    """Every method on every label."""
    corpus = Corpus.open(bench.corpus, "size")
    methods = methods_of(corpus, bench.folder(run), bench.steps)
    return {label: figures_of(compare_on(corpus, label, methods)) for label in LABELS}


def compare_on(corpus: Corpus, label: str, methods: Mapping[str, Method]) -> Comparison:
    """Fit every method on people of the split `train` and score those of `test`."""
    task = resolve_task(label, TaskSpec(label=label, group="subject", split=SplitSpec(by="column")), corpus.table)

    def splitter(target: Target, seed: int) -> Sequence[Split]:
        return splits_of(task, corpus.table, None, seed=seed)

    return compare(task, methods, splitter, refits=1, seed=0, say=lambda line: None)


def figures_of(comparison: Comparison) -> dict[str, Figures]:
    """AUROC of every method, and what each reading of the trained encoder gains over the random ones."""
    figures = {name: measured(METRIC, comparison, name) for name in comparison.scores}
    for reading in READINGS:
        figures[f"{reading}/gain"] = gain(METRIC, comparison, f"{reading}/{TRAINED}", f"{reading}/{RANDOM}")
    return figures


def methods_of(corpus: Corpus, folder: Path, step: int) -> dict[str, Method]:
    """Both readings of the encoder and of random ones, raw voxels, intensity moments."""
    parts = embedded(corpus, folder, step)
    seeds = [random_name(seed) for seed in range(RANDOM_ENCODERS)]
    methods = {}
    for reading in READINGS:
        probe = PROBES[reading]
        for name, sources in ((TRAINED, [TRAINED]), (RANDOM, seeds)):
            features = tuple(Features.plain(parts[f"{source}/{probe.readout}"]) for source in sources)
            methods[f"{reading}/{name}"] = Method(features, probe.fit)
    methods["raw_voxel"] = Method((Features.plain(parts["input/voxels"]),), fit_voxels)
    methods["nuisance"] = Method((Features.plain(parts["input/moments"]),), fit_linear)
    return methods


def embedded(corpus: Corpus, folder: Path, step: int) -> dict[str, np.ndarray]:
    """Mean-pooled and region-pooled tokens of every volume in the corpus' order, and of its input voxels and moments."""
    config, cpu = config_from_yaml(folder / "config.yaml"), torch.device("cpu")
    name, trained = choose_encoder(load_objective(folder, step).objective, None)
    encoders: dict[str, VisionTransformer] = {TRAINED: trained}
    for seed in range(RANDOM_ENCODERS):
        config.seed = seed
        encoders[random_name(seed)] = choose_encoder(untrained(config), name)[1]
    batches = evaluation_batches(corpus, corpus.samples, config.data, batch_size=8, device=cpu)
    keys, readouts = [sample.key for sample in corpus.samples], [PROBES[reading].readout for reading in READINGS]
    rows = list(embed(encoders, batches, keys, cpu, readouts=readouts))
    order = np.argsort(np.concatenate([positions for positions, _ in rows]))
    wanted = [f"{encoder}/{readout}" for encoder in encoders for readout in readouts] + ["input/voxels", "input/moments"]
    return {key: torch.cat([part[key] for _, part in rows]).numpy()[order] for key in wanted}
