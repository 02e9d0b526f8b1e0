"""The foreground of real heads: stripped and whole, thick slices and noise."""

from functools import cache
from pathlib import Path

import numpy as np
import pydeface
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from scipy import ndimage

from mri_fm.data.schema import CROP_MARGIN
from mri_fm.volume.canonical import Canonical, canonicalise, crop
from mri_fm.volume.foreground import _block_mean, _largest_object, foreground
from mri_fm.volume.read import Volume, read_volume
from mri_fm.volume.refusal import Refusal
from tests.corpora import resampled


def overlap(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return 2 * float((a & b).sum()) / float(a.sum() + b.sum())


@cache
def stripped() -> Canonical:
    image = resampled((3, 3, 3))
    return canonicalise(Volume(np.asarray(image.dataobj), image.affine, "int16"))


@cache
def whole_head() -> Volume:
    volume = read_volume(Path(pydeface.__file__).parent / "data" / "mean_reg2mean.nii.gz")
    return Volume(volume.array[::2, ::2, ::2].astype(np.int16), volume.affine @ np.diag([2, 2, 2, 1]), "int16")


def test_a_stripped_brain_is_found_exactly_but_for_its_holes() -> None:
    canonical = stripped()
    found = foreground(canonical.voxels, canonical.spacing)
    truth = ndimage.binary_fill_holes(canonical.voxels > 1)[tuple(map(slice, found.start, found.stop))]
    assert overlap(found.mask, truth) > 0.99


def test_margin_and_background() -> None:
    canonical = stripped()
    found, cropped = foreground(canonical.voxels, canonical.spacing), crop(canonical)
    assert np.array_equal(cropped.voxels != 0, found.mask)
    for axis in range(3):
        occupied = np.flatnonzero(found.mask.any(axis=tuple({0, 1, 2} - {axis})))
        assert occupied[0] == min(CROP_MARGIN, occupied[0] + found.start[axis])
        assert found.mask.shape[axis] - 1 - occupied[-1] <= CROP_MARGIN
    inside = found.mask
    assert np.array_equal(cropped.voxels[inside], canonical.voxels[tuple(map(slice, found.start, found.stop))][inside])
    assert cropped.p01 == pytest.approx(np.percentile(cropped.voxels[inside], 1))
    assert cropped.crop_p99 == pytest.approx(np.percentile(cropped.voxels, 99))
    assert cropped.foreground_fraction == pytest.approx(inside.mean())


def test_a_whole_head_with_noisy_air_is_one_object_without_holes() -> None:
    volume = whole_head()
    noisy = volume.array + np.abs(np.random.default_rng(0).normal(0, 8, volume.array.shape)).astype(np.int16)
    canonical = canonicalise(Volume(noisy, volume.affine, "int16"))
    found = foreground(canonical.voxels, canonical.spacing)
    assert 0.25 < found.mask.sum() / canonical.voxels.size < 0.6
    labels, _ = ndimage.label(found.mask)
    assert np.bincount(labels[labels > 0]).max() > 0.999 * found.mask.sum()
    centre = tuple(slice(n // 2 - 8, n // 2 + 8) for n in found.mask.shape)
    assert found.mask[centre].all()
    corner = canonical.voxels.shape[0] - 1, 0, 0
    outside = np.ones(3, bool) if found.stop[0] <= corner[0] or found.start[1] > 0 else ~found.mask[-1, 0, :3]
    assert outside.all()


def test_thick_slices_keep_the_brain_whole() -> None:
    volume = whole_head()
    middle = volume.array[:, :, 40:100:4]  # 15 slices of 7.8 mm: the skull is a ring that is open above and below
    affine = volume.affine @ np.diag([1, 1, 4, 1])
    canonical = canonicalise(Volume(middle, affine, "int16"), max_spacing=8)
    found = foreground(canonical.voxels, canonical.spacing)
    holes = ndimage.binary_fill_holes(found.mask, np.pad(np.ones((1, 3, 3), bool), ((1, 1), (0, 0), (0, 0)))) & ~found.mask
    assert holes.sum() < 0.001 * found.mask.sum()


def test_nothing_but_a_speck_is_refused() -> None:
    voxels = np.ones((40, 40, 40), np.int16)
    voxels[20, 20, 20:23] = 500
    with pytest.raises(Refusal) as refusal:
        foreground(voxels, (3.0, 3.0, 3.0))
    assert refusal.value.code == "no_foreground"


def test_a_known_level_gives_the_same_crop() -> None:
    first = crop(stripped())
    again = crop(stripped(), level=first.level)
    assert np.array_equal(first.voxels, again.voxels)
    assert (first.level, first.p99) == (again.level, again.p99)
    assert crop(stripped(), level=int(first.p01) + 1).foreground_fraction != first.foreground_fraction


masks = arrays(np.bool_, array_shapes(min_dims=3, max_dims=3, max_side=9))


@given(masks, st.tuples(*[st.integers(1, 10)] * 3))
def test_shares_in_blocks_are_those_of_each_block(mask: NDArray[np.bool_], factors: tuple[int, int, int]) -> None:
    z, y, x = factors
    shares = _block_mean(mask, list(factors))
    for i, j, k in np.ndindex(shares.shape):
        block = mask[i * z : (i + 1) * z, j * y : (j + 1) * y, k * x : (k + 1) * x]
        assert shares[i, j, k] == pytest.approx(block.sum() / (z * y * x))


@given(masks, st.integers(0, 2))
def test_holes_are_filled_slice_by_slice_as_scipy_does(mask: NDArray[np.bool_], axis: int) -> None:
    labels, count = ndimage.label(mask)
    found = _largest_object(mask, axis)
    if not count:
        assert not found.any()
        return
    largest = labels == 1 + np.argmax(np.bincount(labels.reshape(-1))[1:])
    filled = [ndimage.binary_fill_holes(plane) for plane in np.moveaxis(largest, axis, 0)]
    assert np.array_equal(np.moveaxis(found, axis, 0), filled)
