"""A run folder to an exported encoder."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mri_fm.config import Config, config_from_yaml
from mri_fm.data.corpus import Corpus
from mri_fm.data.schema import MANIFEST_FILE
from mri_fm.engine.checkpoint import find_checkpoint
from mri_fm.engine.identity import differences, identity
from mri_fm.engine.publication import CHECKSUM_FILE
from mri_fm.engine.stored import read_meta
from mri_fm.engine.weights import load_objective
from mri_fm.errors import ResumableError, UserError
from mri_fm.evaluate.evaluation import choose_encoder
from mri_fm.export.card import Facts, write_card
from mri_fm.export.folder import CONFIG_FILE, MODEL_TYPE, file_sha256, write_folder
from mri_fm.export.spec import InputSpec
from mri_fm.models.vit import as_size3
from mri_fm.volume.canonical import MAX_SPACING_MM
from mri_fm.volume.processing import Processing

PARTIAL = ".partial"


@dataclass(frozen=True)
class Request:
    """What to export; the command's arguments."""

    run: Path
    out: Path
    encoder: str | None = None  # teacher, student; None: the one the objective keeps for downstream use
    step: int | None = None  # of the checkpoint; None: the newest, which then must be the run's last
    corpus: str | None = None  # where the run's corpus lies now; None: where it lay in training
    licence: str | None = None  # of the weights, an identifier of Hugging Face's list; None: not stated


def export_run(request: Request, say: Callable[[str], None] = lambda line: None) -> Path:
    """Write the encoder of a run into `request.out`, which appears once it is complete.

    Raises:
        UserError: no run, no checkpoint, one that is damaged, of another run or from before the run's last step, a corpus
            that is not the run's, or an `out` that holds something else.
    """
    _check_out(request.out)
    config = config_from_yaml(request.run / "config.yaml")
    checkpoint = find_checkpoint(request.run, request.step)
    meta = read_meta(checkpoint)
    _check_own(checkpoint, meta, config)
    _check_finished(request, int(meta["step"]), config.train.steps)
    corpus = _find_corpus(request.corpus or config.data.corpus, meta["identity"]["values"]["data.corpus"], say)
    loaded = load_objective(request.run, int(meta["step"]))
    name, network = choose_encoder(loaded.objective, request.encoder)
    origin = _origin(config, meta, name, file_sha256(checkpoint / CHECKSUM_FILE))
    partial = request.out.with_name(request.out.name + PARTIAL)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        exported = write_folder(partial, config.model, _input_spec(config, corpus), network.state_dict(), origin)
        write_card(partial, Facts(exported, config, request.run, corpus, request.licence))
        shutil.rmtree(request.out, ignore_errors=True)
        partial.rename(request.out)
    except OSError as error:
        raise UserError(f"--out {request.out} cannot be written ({error}): choose another folder") from error
    return request.out


def _check_out(out: Path) -> None:
    """A new or empty folder, or an export, which is then replaced."""
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file; give a folder")
    if out.is_dir() and any(out.iterdir()):
        try:
            ours = json.loads((out / CONFIG_FILE).read_bytes())["model_type"] == MODEL_TYPE
        except (OSError, ValueError, KeyError, TypeError):
            ours = False
        if not ours:
            raise UserError(f"--out {out} holds files that are no export: choose a new folder")


def _check_own(checkpoint: Path, meta: dict[str, Any], config: Config) -> None:
    """A checkpoint that was put here from another run may fit in shape, and would be exported under a wrong name."""
    saved = meta["identity"]
    values = saved["values"]
    current = identity(config, values.get("data.corpus", ""), values.get("train.precision", ""))
    different = differences(saved, current)
    if different:
        raise UserError(
            f"{checkpoint} is of another run than the config.yaml beside it: {', '.join(different[:5])} differ; "
            "give the run that wrote it"
        )


def _check_finished(request: Request, step: int, steps: int) -> None:
    if step < steps and request.step is None:
        raise UserError(
            f"{request.run} has a checkpoint of step {step} of {steps}: it is unfinished; let it finish (the same training "
            f"command resumes), or take --step {step} to export it as it is"
        )


def _find_corpus(address: str, content: str, say: Callable[[str], None]) -> Corpus | None:
    """The corpus that the run was trained on; None, with a word, where it is out of reach: the weights need none.

    Raises:
        UserError: there is another one.
    """
    try:
        corpus = Corpus.open(address, "manifest", shards=False)
    except (UserError, ResumableError) as error:
        say(
            "the model card will not describe the data, and the encoder will take scans as a build without options does "
            f"(--brain, --n4, --resample): {error}; --corpus says where the corpus lies now"
        )
        return None
    if corpus.info["checksums"].get(MANIFEST_FILE, corpus.info["spec_hash"]) != content:
        raise UserError(
            f"{address} is not the corpus that the run was trained on (its manifest differs): give that as --corpus"
        )
    return corpus


def _input_spec(config: Config, corpus: Corpus | None) -> InputSpec:
    built = {} if corpus is None else corpus.info["spec"]
    evaluation = dataclasses.replace(config.data.evaluation)
    max_spacing = float(built.get("max_spacing", MAX_SPACING_MM))
    processing = Processing(**built.get("processing", {}))
    return InputSpec(as_size3(config.data.size), config.data.statistics, evaluation, max_spacing, processing)


def _origin(config: Config, meta: dict[str, Any], encoder: str, checkpoint: str) -> dict[str, Any]:
    """Where the weights come from; no path, since an export is given away."""
    return {
        "objective": config.objective.name,
        "encoder": encoder,
        "step": int(meta["step"]),
        "steps": config.train.steps,
        "samples": int(meta["position"]),
        "seed": config.seed,
        "corpus_manifest_xxh3": meta["identity"]["values"]["data.corpus"],
        "checkpoint_sha256": checkpoint,
    }
