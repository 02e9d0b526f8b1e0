"""Labels, masks, CT, phase and holes, told by their voxels: made from the template; real atlases where they are installed."""

from functools import cache
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from mri_fm.volume import content
from mri_fm.volume.canonical import canonicalise
from mri_fm.volume.content import EQUAL_NEIGHBOURS, equal_neighbours, has_few_values
from mri_fm.volume.intensity import quantise
from mri_fm.volume.read import Volume
from mri_fm.volume.refusal import Refusal
from tests.corpora import resampled, template

ATLASES = sorted(Path("/usr/share/mricron/templates").glob("*.nii.gz"))
SPACING = (3.0, 3.0, 3.0)
AFFINE = np.diag([*SPACING, 1.0])


@cache
def brain() -> NDArray[np.int16]:
    return np.asarray(resampled(SPACING).dataobj)


def parcels(count: int) -> NDArray[np.int16]:
    """The brain cut into `count` regions around random voxels of it, with the odd numbers of a parcellation."""
    inside = np.argwhere(brain() > 0)
    seeds = inside[np.random.default_rng(0).choice(len(inside), count, replace=False)]
    labels = np.zeros(brain().shape, np.int16)
    labels[tuple(inside.T)] = 11 + 7 * cKDTree(seeds).query(inside)[1]
    return labels


def decision(array: NDArray[Any]) -> str:
    try:
        canonicalise(Volume(array, AFFINE, str(array.dtype)))
    except Refusal as refusal:
        return refusal.code
    return ""


@pytest.mark.parametrize("count", [3, 40, 120, 400])
@pytest.mark.parametrize("dtype", ["int16", "float64"])
def test_segmentations_are_labels_however_many_regions_they_have(count: int, dtype: str) -> None:
    assert decision(parcels(count).astype(dtype)) == "label"


def test_masks_are_labels_also_with_soft_edges() -> None:
    mask = ndimage.zoom((brain() > 40).astype(float), 2, order=0)[::2, ::2, ::2]
    assert decision(mask) == decision((mask * 255).astype(np.uint8)) == "label"
    soft = ndimage.gaussian_filter(mask, 0.4)
    assert len(np.unique(soft)) > 1000
    assert decision(np.where(soft > 0.999, 1, np.where(soft < 0.001, 0, soft))) == "label"


def test_scans_are_no_labels() -> None:
    assert decision(brain()) == ""
    assert decision(brain() // 5) == ""  # 6 bits
    assert decision(np.minimum(brain(), np.percentile(brain()[brain() > 0], 60))) == ""  # bright tissue saturated
    assert decision(np.maximum(brain(), 30) * np.float32(0.37)) == ""
    enlarged = brain().repeat(2, 0).repeat(2, 1).repeat(2, 2)  # nearest neighbour
    assert equal_neighbours(quantise(enlarged)[0]) < EQUAL_NEIGHBOURS
    assert equal_neighbours(quantise(np.asarray(template().dataobj))[0]) < EQUAL_NEIGHBOURS / 2


@pytest.mark.skipif(not ATLASES, reason="mricron's atlases are not installed")
@pytest.mark.parametrize("path", ATLASES, ids=lambda path: path.name)
def test_installed_atlases_are_labels_and_templates_are_not(path: Path) -> None:
    image = nibabel.load(path)
    array = np.asarray(image.dataobj)
    is_scan = path.name.startswith("ch2") or "t1" in path.name
    quantised, scale, _ = quantise(array)
    assert (scale == 1.0 and equal_neighbours(quantised) > EQUAL_NEIGHBOURS) == (not is_scan)


def test_few_values() -> None:
    rng = np.random.default_rng(0)
    assert has_few_values(quantise(rng.integers(0, 8, (20, 20, 20)))[0])
    assert not has_few_values(quantise(rng.integers(0, 300, (20, 20, 20)))[0])


def test_values_that_a_sample_misses_still_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content, "SAMPLES", 100)  # every seventh of 700
    array = np.ones((7, 10, 10), np.int16)
    array.reshape(-1)[1:400:7] = np.arange(2, 59)  # none of the sampled ones
    quantised, _, _ = quantise(array)
    assert not has_few_values(quantised)
    assert has_few_values(np.minimum(quantised, 32))


def test_hounsfield_units_are_ct_and_negative_mr_is_not() -> None:
    head = np.where(brain() > 20, brain() * 0.4 - 20, -1000 + np.random.default_rng(0).normal(0, 12, brain().shape))
    assert decision(np.rint(head).astype(np.int16)) == "not_mr"
    assert decision((brain().astype(np.float32) - brain().mean()) / brain().std()) == ""  # z-scores
    assert decision(brain() - np.int16(1000)) == ""  # shifted: air, but no soft tissue


def test_radians_are_phase() -> None:
    phase = np.random.default_rng(0).uniform(-np.pi, np.pi, brain().shape).astype(np.float32)
    assert decision(phase) == "derived_map"
    assert decision(phase * 1.2) != "derived_map"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_holes_in_the_background_are_filled_and_counted(value: float) -> None:
    scan = brain().astype(np.float32)
    components, _ = ndimage.label(scan == 0)
    holes = components == components[0, 0, 0]
    canonical = canonicalise(Volume(np.where(holes, value, scan), AFFINE, "float32"))
    assert canonical.repaired == holes.sum() > 1000
    assert np.array_equal(canonical.voxels, canonicalise(Volume(scan, AFFINE, "float32")).voxels)
    assert canonicalise(Volume(scan, AFFINE, "float32")).repaired == 0


def test_holes_in_the_head_are_not() -> None:
    scan = brain().astype(np.float32)
    centre = tuple(n // 2 for n in scan.shape)
    scan[centre] = np.nan
    assert decision(scan) == "non_finite"
    assert decision(np.full(scan.shape, np.nan, np.float32)) == "non_finite"
