from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mri_fm.errors import UserError
from mri_fm.export.adapters.features import FeatureExtractor
from mri_fm.export.encoder import Encoder, load_encoder
from mri_fm.export.run import Request, export_run
from mri_fm.models.patches import patchify
from tests.export.conftest import configure, write_run


@pytest.fixture(scope="module")
def volumes() -> torch.Tensor:
    return torch.randn(2, 1, 16, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def extractor(encoder: Encoder) -> FeatureExtractor:
    return FeatureExtractor(encoder).eval()


def test_pooled_features_are_the_mean_of_the_encoder_s_tokens(extractor, encoder, volumes) -> None:
    tokens_BND = encoder(volumes)
    torch.testing.assert_close(extractor.forward_features(volumes), tokens_BND)
    torch.testing.assert_close(extractor(volumes), tokens_BND.mean(1))
    assert extractor(volumes).shape == (2, extractor.num_features)


def test_intermediates_are_the_blocks_outputs_computed_by_hand(extractor, encoder, volumes) -> None:
    network = encoder.network
    final_BND, maps = extractor.forward_intermediates(volumes)
    assert [tuple(one.shape) for one in maps] == [(2, 24, 2, 4, 4)] * extractor.depth
    x_BTD, rotation = network.position(network.embedding(patchify(volumes, network.patch)), None, network.grid, None)
    for block, one in zip(network.blocks, maps, strict=True):
        x_BTD = block(x_BTD, rotation)
        torch.testing.assert_close(one, x_BTD.reshape(2, 2, 4, 4, 24).permute(0, 4, 1, 2, 3))
    torch.testing.assert_close(final_BND, network.norm(x_BTD))
    assert not any(block._forward_hooks for block in network.blocks)


def test_indices_count_as_in_timm(extractor, volumes) -> None:
    every = extractor.forward_intermediates(volumes, output_fmt="NLC", intermediates_only=True)
    for indices, expected in {1: [1], (0,): [0], (-1, 0): [1, 0]}.items():
        given = extractor.forward_intermediates(volumes, indices, output_fmt="NLC", intermediates_only=True)
        assert all(torch.equal(a, every[b]) for a, b in zip(given, expected, strict=True))
    (normed,) = extractor.forward_intermediates(volumes, 1, norm=True, output_fmt="NLC", intermediates_only=True)
    torch.testing.assert_close(normed, extractor.forward_features(volumes))
    with pytest.raises(UserError, match="no block 5: the encoder has 2"):
        extractor.forward_intermediates(volumes, [5])
    with pytest.raises(UserError, match="output_fmt='NCHW'"):
        extractor.forward_intermediates(volumes, output_fmt="NCHW")


def test_registers_and_positions_in_millimetres_are_handled(corpus: Path, tmp_path: Path, volumes) -> None:
    words = ["model.registers=3", "model.position=rope", "model.rope_spacing=true"]
    run = write_run(tmp_path / "run", configure(tmp_path / "run", corpus, *words))
    extractor = FeatureExtractor(load_encoder(export_run(Request(run, tmp_path / "out"))))
    spacing_B3 = torch.ones(2, 3)
    _, maps = extractor.forward_intermediates(volumes, spacing_B3=spacing_B3)
    assert maps[0].shape == (2, 24, 2, 4, 4)
    assert extractor.forward_features(volumes, spacing_B3).shape == (2, 32, 24)


def test_it_can_be_trained_further(exported: Path, volumes) -> None:
    extractor = FeatureExtractor(load_encoder(exported)).train()
    extractor(volumes).square().sum().backward()
    assert all(parameter.grad is not None for parameter in extractor.parameters())
