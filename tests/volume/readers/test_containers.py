"""The same scan, stored in any format along any axes, is one canonical array, and so one content hash."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from mri_fm.volume.canonical import Canonical, canonicalise
from mri_fm.volume.read import Volume, read_volume
from tests.corpora import resampled
from tests.volume.containers import WRITERS

SPACING = (5.0, 4.6875, 6.0)


@cache
def scan() -> NDArray[np.int16]:
    return np.asarray(resampled(SPACING).dataobj)


def tilted(angles: tuple[float, float, float]) -> NDArray[np.float64]:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() * SPACING
    affine[:3, 3] = (-70.5, -93.25, -60)
    return affine


def stored(
    array: NDArray[Any], affine: NDArray[np.float64], axes: tuple[int, ...], flips: tuple[bool, ...]
) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """The same scan along other axes: `axes` of the source in their new order, some of them backwards."""
    change = np.zeros((4, 4))
    change[3, 3] = 1
    for new, (old, flip) in enumerate(zip(axes, flips, strict=True)):
        change[old, new], change[old, 3] = (-1, array.shape[old] - 1) if flip else (1, 0)
    moved = array.transpose(axes)[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]
    return np.ascontiguousarray(moved), affine @ change


def canonical(array: NDArray[Any], affine: NDArray[np.float64]) -> Canonical:
    return canonicalise(Volume(array, affine, "int16"))


def check_same(name: str, array: NDArray[Any], affine: NDArray[np.float64], truth: Canonical) -> None:
    with TemporaryDirectory() as folder:
        found = canonicalise(read_volume(WRITERS[name](Path(folder), array, affine)))
    assert np.array_equal(found.voxels, truth.voxels)
    assert np.allclose(found.affine, truth.affine, atol=2e-4)
    assert found.content_hash() == truth.content_hash()


@pytest.mark.parametrize("name", WRITERS)
def test_every_container_holds_the_same_scan(name: str) -> None:
    affine = tilted((8, -20, 31))
    check_same(name, *stored(scan(), affine, (2, 0, 1), (True, False, True)), canonical(scan(), affine))


orders = st.permutations(range(3)).map(tuple)
angles = st.tuples(*[st.sampled_from([0.0, 45.0, 90.0, -45.0]) | st.floats(-180, 180)] * 3)


@settings(max_examples=80)
@given(name=st.sampled_from(list(WRITERS)), axes=orders, flips=st.tuples(*[st.booleans()] * 3), angles=angles)
def test_any_axes_in_any_container_at_any_angle(
    name: str, axes: tuple[int, ...], flips: tuple[bool, ...], angles: tuple[float, float, float]
) -> None:
    small = scan()[::2, ::2, ::2]
    affine = tilted(angles) @ np.diag([2, 2, 2, 1])
    ras = canonicalise(Volume(small, affine, "int16"), max_spacing=15)
    with TemporaryDirectory() as folder:
        path = WRITERS[name](Path(folder), *stored(small, affine, axes, flips))
        found = canonicalise(read_volume(path), max_spacing=15)
    assert np.array_equal(found.voxels, ras.voxels)
    assert found.content_hash() == ras.content_hash()
