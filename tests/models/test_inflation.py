import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mri_fm.models.inflation import inflate_kernel, resize_positions

GENERATOR = torch.Generator().manual_seed(0)


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=GENERATOR, dtype=torch.float64)


def resized(x: torch.Tensor, size: tuple[int, int, int]) -> torch.Tensor:
    return F.interpolate(x, size=size, mode="trilinear", align_corners=False)


@pytest.mark.parametrize("depth", [1, 5, 8])
def test_a_volume_constant_along_the_depth_is_embedded_as_its_image(depth):
    kernel, image = draw(6, 3, 4, 4), draw(2, 1, 8, 12)
    inflated = inflate_kernel(kernel, 1, (depth, 4, 4))
    assert inflated.shape == (6, 1, depth, 4, 4)
    volume = image[:, :, None].expand(-1, -1, 2 * depth, -1, -1)
    flat = F.conv2d(image.expand(-1, 3, -1, -1), kernel, stride=4)
    deep = F.conv3d(volume, inflated, stride=(depth, 4, 4))
    assert deep.shape[2] == 2
    torch.testing.assert_close(deep, flat[:, :, None].expand_as(deep), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("patch", [(8, 16, 16), (4, 8, 16), (2, 7, 5)])
def test_resized_patches_are_embedded_as_the_patches_were(patch):
    """Where no axis gets smaller, exactly: FlexiViT's property, here along the depth of a video's tubelets as well."""
    kernel, patches = draw(6, 1, 2, 7, 5), draw(9, 1, 2, 7, 5)
    inflated = inflate_kernel(kernel, 1, patch)
    before = torch.einsum("nczyx,dczyx->nd", patches, kernel)
    after = torch.einsum("nczyx,dczyx->nd", resized(patches, patch), inflated)
    torch.testing.assert_close(after, before, rtol=1e-9, atol=1e-9)


def test_a_smaller_kernel_is_the_best_there_is():
    """Least squares over a basis of all patches: none embeds small patches as close to how large ones are embedded."""
    kernel, basis = draw(3, 1, 1, 16, 16), torch.eye(256, dtype=torch.float64)
    small = F.interpolate(basis.view(256, 1, 16, 16), size=(8, 8), mode="bilinear", align_corners=False, antialias=True)
    wanted = basis @ kernel.flatten(1).T
    best, *_ = np.linalg.lstsq(small.flatten(1).numpy(), wanted.numpy(), rcond=None)
    np.testing.assert_allclose(inflate_kernel(kernel, 1, (1, 8, 8)).flatten(1).T.numpy(), best, rtol=1e-9, atol=1e-9)


def test_a_kernel_of_the_same_size_stays():
    kernel = draw(6, 1, 8, 8, 8)
    assert torch.equal(inflate_kernel(kernel, 1, (8, 8, 8)), kernel)


def test_channels_are_kept_or_summed():
    kernel = draw(6, 3, 4, 4)
    torch.testing.assert_close(inflate_kernel(kernel, 1, (1, 4, 4))[:, :, 0], kernel.sum(1, keepdim=True))
    torch.testing.assert_close(inflate_kernel(kernel, 3, (1, 4, 4))[:, :, 0], kernel)
    with pytest.raises(ValueError, match="3 channels does not become one of 2"):
        inflate_kernel(kernel, 2, (1, 4, 4))
    with pytest.raises(ValueError, match="of no image and of no video"):
        inflate_kernel(draw(6, 3, 4), 1, (1, 4, 4))


def test_a_table_of_an_image_is_repeated_along_the_depth_and_interpolated_in_the_plane():
    ramp = torch.arange(4.0)
    table_ND = torch.stack(torch.meshgrid(ramp, ramp, indexing="ij"), dim=-1).flatten(0, 1)  # y and x of each patch
    resized_ND = resize_positions(table_ND, (1, 4, 4), (3, 8, 8)).unflatten(0, (3, 8, 8))
    assert torch.equal(resized_ND[0], resized_ND[2])
    inner = (torch.arange(8) + 0.5) / 2 - 0.5
    torch.testing.assert_close(resized_ND[0, 1:-1, 1, 0], inner[1:-1])  # patch centres of the same field of view
    torch.testing.assert_close(resized_ND[0, 1, 1:-1, 1], inner[1:-1])
    assert torch.equal(resize_positions(table_ND, (1, 4, 4), (1, 4, 4)), table_ND)
    with pytest.raises(ValueError, match="a table of 16 positions is not one of a grid"):
        resize_positions(table_ND, (1, 4, 5), (3, 8, 8))
