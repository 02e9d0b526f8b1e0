"""What is not an export is not opened, and nothing is unpickled."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mri_fm.errors import UserError
from mri_fm.export.encoder import load_encoder
from mri_fm.export.folder import file_sha256


class Boom:
    """Unpickling it leaves a trace."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return Path.touch, (self.trace,)


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    return shutil.copytree(exported, tmp_path / "export")


def rewrite(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refused(folder: Path, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_encoder(folder)
    assert "\n" not in str(caught.value)


def test_a_pickle_given_as_weights_is_refused_and_not_run(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").write_bytes(pickle.dumps(Boom(tmp_path / "trace")))
    rewrite(folder / "config.json", sha256=file_sha256(folder / "model.safetensors"))
    refused(folder, "no safetensors file")
    torch.save({"weight": torch.zeros(3)}, folder / "model.safetensors")
    refused(folder, "no safetensors file")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refused(folder, "model.safetensors is missing")
    assert not (tmp_path / "trace").exists()
    pickle.loads(pickle.dumps(Boom(tmp_path / "trace")))
    assert (tmp_path / "trace").exists()


def test_cut_and_altered_files_are_named(folder: Path) -> None:
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-100])
    refused(folder, "no safetensors file or was cut")
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    refused(folder, "was altered: its SHA-256")
    config = folder / "config.json"
    config.write_text(config.read_text()[:100])
    refused(folder, "config.json was cut or altered")
    config.unlink()
    refused(folder, "no .*config.json: give a folder")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "vit"}, "of type vit"),
        ({"format": 99}, "format 99"),
        ({"model": {"width": 24, "colour": "red"}}, "unknown option colour"),
        ({"model": {"width": "wide"}}, "does not describe an encoder"),
        ({"model": {"width": 48, "heads": 2, "depth": 2}}, "another network"),
        ({"model": [1]}, "does not describe an encoder"),
    ],
)
def test_a_foreign_description_is_named(change: dict[str, Any], message: str, folder: Path) -> None:
    rewrite(folder / "config.json", **change)
    refused(folder, message)


def test_a_foreign_input_is_named(folder: Path) -> None:
    path = folder / "preprocessor_config.json"
    spec = json.loads(path.read_text())["input"]
    for change in ({"size": [16, 32]}, {"size": [0, 32, 32]}, {"plane": "any"}, {"statistics": "none"}):
        rewrite(path, input=spec | change)
        with pytest.raises(UserError):
            load_encoder(folder)


def test_weights_of_another_network_are_named(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights.pop("norm.bias")
    save_file(weights, folder / "model.safetensors")
    rewrite(folder / "config.json", sha256=file_sha256(folder / "model.safetensors"))
    refused(folder, "norm.bias is None, not")
