"""An exported encoder as one file for servers that run graphs and no Python of this project.

    python -m mri_fm.export.graph DIR --out encoder.onnx    # ONNX Runtime, TensorRT, Triton; needs the extra `onnx`
    python -m mri_fm.export.graph DIR --out encoder.pt2     # torch.export, for torch.export.load, AOTInductor and Triton

The graph takes inputs that are prepared already (`Encoder.prepare`), any number at once.

Axes: B batch, N tokens, D width, Z/Y/X depth, height, width of the input.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mri_fm.errors import UserError, run_main
from mri_fm.export.encoder import Encoder, load_encoder
from mri_fm.models.moe import mixtures
from mri_fm.models.positions import RotaryPositions

INPUTS, OUTPUTS = ("volume", "spacing"), ("tokens", "embedding")
TOLERANCE = 1e-3  # largest difference of an output, relative to its largest value, that is let through
_ONE_FILE = 1_900_000_000  # bytes of weights; a file of protobuf cannot have 2 GiB, and others lie beside it
_BATCHES = (2, 3)  # one to write with, another to check with


class EncoderGraph(nn.Module):
    """Tokens (B, N, D) and embeddings (B, D) of prepared inputs; what a graph computes."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.network = encoder.network

    def forward(self, volume_BCZYX: Tensor, spacing_B3: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Encode; `spacing_B3` (mm) where positions count in millimetres."""
        tokens_BND = self.network(volume_BCZYX, spacing_B3=spacing_B3)
        return tokens_BND, tokens_BND.mean(dim=1)


def write_graph(encoder: Encoder, out: Path) -> float:
    """Write the graph, read it back and compare.

    Args:
        encoder: on the CPU.
        out: a file that ends in .onnx or .pt2.

    Returns:
        The largest difference between the outputs of the file and those of the encoder, relative to the largest output.

    Raises:
        UserError: another ending, a missing package, an encoder that cannot be written so, or a file that computes something
            else.
    """
    if out.suffix not in _WRITERS:
        raise UserError(f"--out {out} must end in {' or '.join(_WRITERS)}")
    if mixtures(encoder):
        raise UserError("the encoder has a mixture of experts, whose grouped products are in no graph: load_encoder runs it")
    write, run = _WRITERS[out.suffix]
    graph = EncoderGraph(encoder).eval()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write(graph, _inputs(encoder, _BATCHES[0]), out)
    except ModuleNotFoundError as error:
        raise UserError(f"{error.name} is not installed, and {out.suffix} needs it: pip install 'mri-fm[onnx]'") from error
    except OSError as error:
        raise UserError(f"--out {out} cannot be written ({error}): choose another file") from error
    inputs = _inputs(encoder, _BATCHES[1])
    with torch.no_grad():
        expected = graph(*inputs)
    difference = max(
        float((found - wanted).abs().max() / wanted.abs().max())
        for found, wanted in zip(run(out, inputs), expected, strict=True)
    )
    if not difference < TOLERANCE:
        out.unlink()
        raise UserError(f"{out} would compute something else than the encoder, by {difference:.1e}: please report it")
    return difference


def _inputs(encoder: Encoder, batch: int) -> tuple[Tensor, ...]:
    """Made up ones, with as many samples."""
    generator = torch.Generator().manual_seed(batch)
    volume_BCZYX = torch.randn(batch, encoder.network.in_channels, *encoder.network.size, generator=generator)
    position = encoder.network.position
    if not (isinstance(position, RotaryPositions) and position.rope.spacing):
        return (volume_BCZYX,)
    return volume_BCZYX, 0.5 + torch.rand(batch, 3, generator=generator)


def _batch(inputs: Sequence[Tensor]) -> tuple[dict[int, Any], ...]:
    """Any number of samples, of inputs of fixed sizes."""
    batch = torch.export.Dim("batch", min=1)
    return tuple({0: batch} for _ in inputs)


def _write_pt2(graph: EncoderGraph, inputs: tuple[Tensor, ...], out: Path) -> None:
    torch.export.save(torch.export.export(graph, inputs, dynamic_shapes=_batch(inputs)), out)


def _run_pt2(file: Path, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
    with torch.no_grad():
        return tuple(torch.export.load(file).module()(*inputs))


def _write_onnx(graph: EncoderGraph, inputs: tuple[Tensor, ...], out: Path) -> None:
    size = sum(parameter.nbytes for parameter in graph.parameters())
    torch.onnx.export(
        graph,
        inputs,
        out,
        input_names=INPUTS[: len(inputs)],
        output_names=OUTPUTS,
        dynamic_shapes=_batch(inputs),
        dynamo=True,
        external_data=size > _ONE_FILE,
        verbose=False,
    )


def _run_onnx(file: Path, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    given = {name: tensor.numpy() for name, tensor in zip(INPUTS, inputs, strict=False)}
    return [torch.from_numpy(found) for found in session.run(OUTPUTS, given)]


_WRITERS: dict[str, tuple[Callable[..., None], Callable[..., Sequence[Tensor]]]] = {
    ".onnx": (_write_onnx, _run_onnx),
    ".pt2": (_write_pt2, _run_pt2),
}


def main(words: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m mri_fm.export.graph", description=__doc__.splitlines()[0])
    parser.add_argument("encoder", type=Path, metavar="DIR", help="what python -m mri_fm.export has written")
    parser.add_argument("--out", type=Path, required=True, help="file to write; .onnx or .pt2 says what it is")
    options = parser.parse_args(words)
    difference = write_graph(load_encoder(options.encoder), options.out)
    print(f"{options.out}: within {difference:.1e} of the encoder")


if __name__ == "__main__":
    run_main(main)
