"""The model card: what a stranger must know before using the weights."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from matplotlib.figure import Figure

from mri_fm.config import Config
from mri_fm.data.corpus import Corpus
from mri_fm.data.schema import SPLITS
from mri_fm.engine.initial import REPORT_FILE
from mri_fm.export.folder import CARD_FILE, INPUT_FILE, STEPS, WEIGHTS_FILE, Exported
from mri_fm.export.spec import spec_to_json
from mri_fm.observe.recorder import read_metrics

CURVES_FILE = "curves.png"
CURVES = {"loss": "loss", "val_loss": "validation loss", "rankme": "RankMe", "feature_std": "std of features over volumes"}
TAGS = ["medical-imaging", "mri", "brain", "3d", "self-supervised-learning", "vision-transformer"]


@dataclass(frozen=True)
class Facts:
    """What a card is made of; `corpus` and `licence` are None where they are not known."""

    exported: Exported
    config: Config
    run: Path
    corpus: Corpus | None
    licence: str | None


def write_card(folder: Path, facts: Facts) -> None:
    """Write README.md, and curves.png where the run has logged any."""
    records = read_metrics(facts.run) if (facts.run / "metrics.jsonl").is_file() else []
    shown = [name for name in CURVES if sum(record.get(name) is not None for record in records) > 1]
    if shown:
        _curves(records, shown).savefig(folder / CURVES_FILE, dpi=110)
    sections = [
        _front_matter(facts),
        _head(facts),
        _use(facts),
        _data(facts.corpus),
        _training(facts, records, bool(shown)),
        _input(facts),
        _intended_use(),
        _limits(facts.config.objective.name),
        _licence(facts.licence),
        _hashes(facts),
    ]
    (folder / CARD_FILE).write_text("\n\n".join(sections) + "\n", encoding="utf-8")


def _front_matter(facts: Facts) -> str:
    """What Hugging Face's hub reads (huggingface.co/docs/hub/model-cards)."""
    licence = {"license": facts.licence} if facts.licence else {"license": "other", "license_name": "not-stated"}
    fields = {**licence, "library_name": "mri-fm", "pipeline_tag": "image-feature-extraction", "tags": TAGS}
    return f"---\n{yaml.safe_dump(fields, sort_keys=False)}---"


def _head(facts: Facts) -> str:
    model, origin = facts.exported.model, facts.exported.origin
    return (
        f"# {model.name}, {origin['objective']}, step {origin['step']} of {origin['steps']}\n\n"
        f"A 3D vision transformer (width {model.width}, depth {model.depth}, {model.heads} heads, patches of "
        f"{_times(model.patch)} voxels) for structural brain MRI, pretrained without labels. These are the weights of the "
        f"{origin['encoder']}, in fp32."
    )


def _use(facts: Facts) -> str:
    return (
        "## Use\n\n```python\nimport mri_fm\n\n"
        f'encoder = mri_fm.load_encoder("DIR")  # this folder\nembedding = encoder.embed("scan.nii.gz")  # float32, '
        f"({facts.exported.model.width},)\n```\n\nScans in NIfTI, MGZ, MINC or DICOM are read, oriented, cropped and scaled as "
        "in training. `mri-fm embed FOLDER --encoder DIR --out table.parquet` does a whole folder."
    )


def _data(corpus: Corpus | None) -> str:
    if corpus is None:
        return "## Data\n\nThe corpus was out of reach when the encoder was exported; its hash is below."
    rows = []
    for dataset in sorted({sample.dataset for sample in corpus.samples}):
        samples = [sample for sample in corpus.samples if sample.dataset == dataset]
        splits, contrasts = Counter(s.split for s in samples), Counter(s.contrast for s in samples)
        named = ", ".join(f"{name} {number}" for name, number in sorted(contrasts.items()))
        people = len({s.subject for s in samples})
        rows.append([dataset, str(people), str(len(samples)), *(str(splits[name]) for name in SPLITS), named])
    head = ["data set", "subjects", "volumes", *SPLITS, "contrasts"]
    return (
        f"## Data\n\n{_table(head, rows)}\n\nWeights come from the split `train` alone. No subject lies in two splits; exact "
        "duplicates were removed by content hash."
    )


def _training(facts: Facts, records: Sequence[Mapping[str, Any]], has_curves: bool) -> str:
    config, origin = facts.config, facts.exported.origin
    objective = ", ".join(f"{key} {value}" for key, value in asdict(config.objective).items() if key != "name")
    lines = [
        "## Training",
        f"Objective `{config.objective.name}` ({objective}); {origin['samples']} samples in steps of "
        f"{config.train.global_batch}; AdamW, learning rate {config.optim.lr:g}, weight decay {config.optim.weight_decay:g}; "
        f"seed {config.seed}.",
    ]
    if (facts.run / REPORT_FILE).is_file():
        start = json.loads((facts.run / REPORT_FILE).read_text(encoding="utf-8"))
        lines.append(
            f"It did not start from random weights but from `{start['file']}` (SHA-256 {start['sha256']}), whose licence "
            "therefore applies to these weights too."
        )
    losses = [record["loss"] for record in records if record.get("loss") is not None]
    if losses:
        lines.append(f"Loss {losses[0]:.4g} at the first logged step, {losses[-1]:.4g} at the last.")
    if has_curves:
        lines.append(f"![curves of the run]({CURVES_FILE})")
    return "\n\n".join(lines)


def _input(facts: Facts) -> str:
    spec = spec_to_json(facts.exported.spec)
    steps = "\n".join(f"{number}. {step}" for number, step in enumerate(STEPS, 1))
    values = ", ".join(f"{key} {_times(value) if isinstance(value, list) else value}" for key, value in spec.items())
    return f"## Input\n\n{steps}\n\n{values} (`{INPUT_FILE}`)."


def _intended_use() -> str:
    return (
        "## Intended use\n\nResearch: features of structural brain MRI for classifiers, regression, retrieval and as the "
        "starting point of fine-tuning. Not a medical device, and not for decisions about people."
    )


def _limits(objective: str) -> str:
    return (
        "## Limits\n\n- Seen in training is what the table above names: other contrasts, scanners, ages, species and diseases "
        "are outside it, and nothing warns of that.\n- Scanner, site and protocol are in the features; compare groups only "
        "where these are balanced.\n- Features can tell sex, age and identity; treat them as personal data.\n"
        f"- How good they are is not stated here: `{objective}` was trained without labels, and only an evaluation with "
        "subjects kept apart says what the features are worth (`python -m mri_fm.evaluate`)."
    )


def _licence(licence: str | None) -> str:
    stated = f"Weights: {licence}." if licence else "No licence for the weights was stated at export: ask who gave them to you."
    return f"## Licence\n\n{stated} The terms of the data sets apply beside it. The code, mri-fm, is Apache-2.0."


def _hashes(facts: Facts) -> str:
    origin = facts.exported.origin
    rows = [
        [f"`{WEIGHTS_FILE}`, SHA-256", facts.exported.sha256],
        ["checksums of the checkpoint, SHA-256", origin["checkpoint_sha256"]],
        ["manifest of the corpus, XXH3-64", origin["corpus_manifest_xxh3"]],
    ]
    if facts.corpus is not None:
        rows.append(["preprocessing specification of the corpus", str(facts.corpus.info["spec_hash"])])
    return f"## Hashes\n\n{_table(['of', 'hash'], rows)}"


def _curves(records: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Figure:
    figure = Figure(figsize=(3.6 * len(names), 2.6), layout="constrained")
    for number, name in enumerate(names):
        axes = figure.add_subplot(1, len(names), number + 1)
        points = [(record["samples"], record[name]) for record in records if record.get(name) is not None]
        axes.plot(*zip(*points, strict=True), color="#2b6cb0", linewidth=1.2)
        axes.set_title(CURVES[name], fontsize=9)
        axes.set_xlabel("samples", fontsize=8)
        axes.tick_params(labelsize=7)
    return figure


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', ' ') for cell in line)} |" for line in lines)


def _times(values: Sequence[int]) -> str:
    return "×".join(map(str, values))
