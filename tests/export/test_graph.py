"""Graphs compute what the encoder computes, for batches of any size."""

import dataclasses
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from mri_fm.errors import UserError
from mri_fm.export.encoder import Encoder
from mri_fm.export.graph import INPUTS, OUTPUTS, TOLERANCE, main, write_graph
from mri_fm.model_config import ModelConfig

OPTIONS = {"position": "rope", "rope_spacing": True, "registers": 2, "qk_norm": True, "mlp": "swiglu", "layer_scale": 0.1}


def another(encoder: Encoder, **options) -> Encoder:
    """Another network with weights as drawn."""
    model = ModelConfig(width=24, depth=2, heads=2, **options)
    exported = dataclasses.replace(encoder.exported, model=model)
    torch.manual_seed(0)
    return Encoder(exported.build(), exported).eval()


def need_onnx() -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason=f"{name} is not installed (extra onnx)")


def test_an_exported_program_has_tokens_and_embeddings_for_any_batch(encoder: Encoder, exported: Path, tmp_path, capsys):
    main([str(exported), "--out", str(tmp_path / "encoder.pt2")])
    assert capsys.readouterr().out.startswith(f"{tmp_path}/encoder.pt2: within ")
    program = torch.export.load(tmp_path / "encoder.pt2").module()
    for batch in (1, 5):
        volume = torch.randn(batch, 1, *encoder.network.size)
        with torch.no_grad():
            tokens, embedding = program(volume)
            torch.testing.assert_close(tokens, encoder(volume), rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(embedding, encoder(volume).mean(dim=1), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_an_exported_program_takes_spacings_where_positions_need_them(encoder: Encoder, tmp_path):
    turned = another(encoder, **OPTIONS)
    assert write_graph(turned, tmp_path / "turned.pt2") < TOLERANCE
    volume, spacing = torch.randn(1, 1, *turned.network.size), torch.tensor([[3.0, 1.0, 0.5]])
    with torch.no_grad():
        tokens, _ = torch.export.load(tmp_path / "turned.pt2").module()(volume, spacing)
        torch.testing.assert_close(tokens, turned(volume, spacing), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [{}, pytest.param(OPTIONS, marks=pytest.mark.slow)])
def test_onnx_runtime_computes_the_same(encoder: Encoder, options, tmp_path):
    need_onnx()
    import onnxruntime

    given = another(encoder, **options)
    assert write_graph(given, tmp_path / "encoder.onnx") < TOLERANCE
    assert [file.name for file in tmp_path.iterdir()] == ["encoder.onnx"]
    session = onnxruntime.InferenceSession(tmp_path / "encoder.onnx", providers=["CPUExecutionProvider"])
    inputs = [torch.randn(1, 1, *given.network.size), torch.tensor([[3.0, 1.0, 0.5]])][: 2 if options else 1]
    found = session.run(list(OUTPUTS), {name: tensor.numpy() for name, tensor in zip(INPUTS, inputs, strict=False)})
    with torch.no_grad():
        expected = given(*inputs)
    torch.testing.assert_close(torch.from_numpy(found[0]), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(torch.from_numpy(found[1]), expected.mean(dim=1), rtol=1e-4, atol=1e-4)


def test_a_file_that_computes_something_else_is_not_left(encoder: Encoder, tmp_path, monkeypatch):
    out = tmp_path / "encoder.pt2"
    monkeypatch.setattr("mri_fm.export.graph.TOLERANCE", 0.0)
    with pytest.raises(UserError, match="would compute something else"):
        write_graph(encoder, out)
    assert not out.exists()


def test_mistakes_are_named(encoder: Encoder, tmp_path):
    with pytest.raises(UserError, match=r"must end in \.onnx or \.pt2"):
        write_graph(encoder, tmp_path / "encoder.pb")
    with pytest.raises(UserError, match="has a mixture of experts"):
        write_graph(another(encoder, moe_experts=4, moe_active=2, moe_width=16), tmp_path / "encoder.pt2")
    with pytest.raises(UserError, match="cannot be written"):
        write_graph(encoder, Path("/dev/null/encoder.pt2"))


@pytest.mark.skipif(find_spec("onnxscript") is not None, reason="onnxscript is installed")
def test_a_missing_package_is_named(encoder: Encoder, tmp_path):
    with pytest.raises(UserError, match=r"onnx\w* is not installed, .* needs it: pip install 'mri-fm\[onnx\]'"):
        write_graph(encoder, tmp_path / "encoder.onnx")
    assert list(tmp_path.iterdir()) == []
