"""UNETR decodes the encoder's hidden states."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from mri_fm.export.adapters.monai_vit import MonaiViT
from mri_fm.export.encoder import Encoder, load_encoder
from mri_fm.export.run import Request, export_run
from tests.export.conftest import configure, write_run

nets = pytest.importorskip("monai.networks.nets", reason="MONAI is not installed (extra bench)")
SIZE = (32, 32, 32)


@pytest.fixture(scope="module")
def sixteens(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder with the patches and blocks that UNETR's decoder is made for."""
    folder = tmp_path_factory.mktemp("unetr")
    words = ["model.patch=[16,16,16]", "model.depth=12", "data.size=[32,32,32]"]
    run = write_run(folder / "run", configure(folder / "run", corpus, *words))
    return export_run(Request(run, folder / "out"))


def unetr(encoder: Encoder) -> nn.Module:
    network = nets.UNETR(in_channels=1, out_channels=3, img_size=SIZE, feature_size=4, hidden_size=encoder.width, mlp_dim=48,
                         num_heads=2)  # fmt: skip
    network.vit = MonaiViT(encoder)
    return network


def test_unetr_segments_with_it_and_trains_it(sixteens: Path) -> None:
    network = unetr(load_encoder(sixteens)).train()
    out = network(torch.randn(1, 1, *SIZE))
    assert out.shape == (1, 3, *SIZE)
    out.square().mean().backward()
    gradients = [parameter.grad for parameter in network.vit.parameters()]
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients)


def test_weights_are_registered_once_and_are_the_encoder_s(sixteens: Path) -> None:
    encoder = load_encoder(sixteens)
    vit = MonaiViT(encoder)
    assert {name.removeprefix("network.") for name in vit.state_dict()} == set(encoder.network.state_dict())
    x_BCZYX = torch.randn(2, 1, *SIZE)
    final_BND, hidden = vit(x_BCZYX)
    assert len(hidden) == 12
    torch.testing.assert_close(final_BND, encoder(x_BCZYX))


def test_a_decoder_of_monai_s_blocks_takes_maps_of_other_patches(encoder: Encoder) -> None:
    from monai.networks.blocks import UnetrPrUpBlock

    vit = MonaiViT(encoder)
    x_BCZYX = torch.randn(1, 1, 16, 32, 32)
    (early, late) = vit.feature_maps(x_BCZYX, [0, 1])
    assert early.shape == late.shape == (1, encoder.width, 2, 4, 4)
    block = UnetrPrUpBlock(3, encoder.width, 4, num_layer=2, kernel_size=3, stride=1, upsample_kernel_size=2,
                           norm_name="instance", conv_block=True, res_block=True)  # fmt: skip
    assert block(late).shape == (1, 4, 16, 32, 32)
