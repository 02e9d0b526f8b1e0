"""An exported encoder on the disk, in the layout of Hugging Face's hub, checked before anything of it is believed.

    DIR/
      config.json               `ModelConfig` of the encoder, where it comes from, SHA-256 of the weights
      preprocessor_config.json  `InputSpec`, and the steps in words
      model.safetensors         fp32 weights under the names of `VisionTransformer.state_dict()`
      README.md, curves.png     the model card

No file of it is code, and none is unpickled.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from mri_fm.errors import UserError
from mri_fm.export.spec import InputSpec, spec_from_json, spec_to_json
from mri_fm.model_config import HeadConfig, ModelConfig
from mri_fm.models.vit import VisionTransformer

FORMAT = 1
MODEL_TYPE = "mri_fm"
CONFIG_FILE, INPUT_FILE, WEIGHTS_FILE, CARD_FILE = "config.json", "preprocessor_config.json", "model.safetensors", "README.md"
STEPS = [
    "axes to the closest RAS+ grid, voxels moved and never resampled",
    "intensities linearly to int16 1…32767",
    "the largest object and the box around it with 6 voxels of margin; 0 outside the object",
    "depth axis and crop as `plane` and `crop` say, resized linearly to `size`",
    "clipped to the 1st-99th percentile, then z-scored, both over `statistics`",
]
_NOT_HERE = ("predictor", "decoder")  # heads of pretraining, which an export leaves behind


@dataclass(frozen=True)
class Exported:
    """What the two JSON files of an export say.

    Attributes:
        model: of the encoder; its heads are the defaults.
        spec: how a scan becomes an input.
        origin: run, objective, step, hashes: facts for people.
        sha256: of model.safetensors.
    """

    model: ModelConfig
    spec: InputSpec
    origin: Mapping[str, Any]
    sha256: str

    def build(self) -> VisionTransformer:
        """The network with random weights."""
        return VisionTransformer.from_config(self.model, self.spec.size)


def write_folder(
    out: Path, model: ModelConfig, spec: InputSpec, weights: Mapping[str, Tensor], origin: Mapping[str, Any]
) -> Exported:
    """Write all but the model card; config.json, without which nothing is loaded, comes last."""
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, out / WEIGHTS_FILE, {"format": "pt"})
    exported = Exported(model, spec, origin, file_sha256(out / WEIGHTS_FILE))
    _write_json(out / INPUT_FILE, {"image_processor_type": MODEL_TYPE, "input": spec_to_json(spec), "steps": STEPS})
    config = {
        "model_type": MODEL_TYPE,
        "architectures": [VisionTransformer.__name__],
        "format": FORMAT,
        "dtype": "float32",
        "hidden_size": model.width,
        "model": {key: value for key, value in asdict(model).items() if key not in _NOT_HERE},
        "sha256": exported.sha256,
        "origin": dict(origin),
    }
    _write_json(out / CONFIG_FILE, config)
    return exported


def read_folder(folder: Path) -> Exported:
    """Read and check the two JSON files.

    Raises:
        UserError: not an export, one of another version, or one that was altered.
    """
    config, preprocessing = _read_json(folder / CONFIG_FILE), _read_json(folder / INPUT_FILE)
    if config.get("model_type") != MODEL_TYPE or config.get("format") != FORMAT:
        raise UserError(
            f"{folder / CONFIG_FILE} is of type {config.get('model_type')}, format {config.get('format')}; this version opens "
            f"{MODEL_TYPE}, format {FORMAT}: export the run again with python -m mri_fm.export"
        )
    try:
        model = _model_config(config["model"])
        return Exported(model, spec_from_json(preprocessing["input"]), dict(config["origin"]), str(config["sha256"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{folder} does not describe an encoder that this version can build ({type(error).__name__}: {error}): "
            "take the version that exported it, or export the run again"
        ) from error


def read_weights(folder: Path, exported: Exported) -> dict[str, Tensor]:
    """The weights, once their hash, names and shapes are those that config.json says.

    Raises:
        UserError: a missing, cut or altered file, one that is no safetensors, or one of another network.
    """
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise UserError(f"{path} is missing: an export holds its weights as safetensors alone; export the run again")
    try:
        with safe_open(path, framework="pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except SafetensorError as error:
        raise UserError(f"{path} is no safetensors file or was cut ({error}); pickles are not read: export again") from error
    if file_sha256(path) != exported.sha256:
        raise UserError(f"{path} was altered: its SHA-256 is not that of {CONFIG_FILE}; export the run again")
    expected = _expected_shapes(exported)
    different = sorted(name for name in shapes.keys() | expected.keys() if shapes.get(name) != expected.get(name))
    if different:
        raise UserError(
            f"{path} holds another network than {CONFIG_FILE} describes: {different[0]} is {shapes.get(different[0])}, "
            f"not {expected.get(different[0])}; export the run again"
        )
    return load_file(path)


def _expected_shapes(exported: Exported) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        network = exported.build()
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def _model_config(content: Mapping[str, Any]) -> ModelConfig:
    known = {field.name for field in fields(ModelConfig)} - set(_NOT_HERE)
    unknown = sorted(set(content) - known)
    if unknown:
        raise ValueError(f"unknown option {unknown[0]}")
    model = ModelConfig(**content, predictor=HeadConfig(), decoder=HeadConfig())
    for field in fields(ModelConfig):
        if field.name not in _NOT_HERE and not isinstance(getattr(model, field.name), _plain_type(field.name)):
            raise ValueError(f"{field.name}={getattr(model, field.name)!r}")
    return model


def _plain_type(name: str) -> type | tuple[type, ...]:
    default = getattr(ModelConfig(), name)
    return (int, float) if isinstance(default, float) else type(default)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"no {path}: give a folder that python -m mri_fm.export has written")
    try:
        return dict(json.loads(path.read_bytes()))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} was cut or altered; export the run again") from error
