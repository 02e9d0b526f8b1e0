from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from nibabel.affines import apply_affine

from preprocessing.rendering import ATROPHY_RADIUS_MM, Rendering, plan_renderings, render
from preprocessing.rendering_anatomy import CONTRASTS, Anatomy, AnatomyFiles, load_anatomy
from preprocessing.sample_data import _mni152

BASES = {"mni152": CONTRASTS, "groupmean": CONTRASTS[:1]}


@pytest.fixture(scope="module")
def head() -> Anatomy:
    return load_anatomy(AnatomyFiles("mni152", _mni152("t1"), maps=(_mni152("gm"), _mni152("wm"))))


def _voxels(head: Anatomy, rendering: Rendering, seed: int = 0) -> np.ndarray:
    return np.asarray(render(head, rendering, seed).dataobj)


def test_a_rendering_depends_on_seed_and_number_alone(head: Anatomy) -> None:
    rendering = Rendering(3, "mni152", "T2", 1, 5.0)
    first = _voxels(head, rendering)
    np.testing.assert_array_equal(first, _voxels(head, rendering))
    assert not np.array_equal(first[:40, :40, :20], _voxels(head, rendering, seed=1)[:40, :40, :20])
    assert not np.array_equal(first[:40, :40, :20], _voxels(head, replace(rendering, number=4))[:40, :40, :20])


def test_a_longer_plan_begins_with_the_shorter_one() -> None:
    assert plan_renderings(0, 200, BASES)[:50] == plan_renderings(0, 50, BASES)
    assert plan_renderings(1, 50, BASES) != plan_renderings(0, 50, BASES)


def test_the_label_is_balanced_and_independent_of_everything_else() -> None:
    plan = plan_renderings(0, 1600, BASES)
    assert sum(r.atrophy for r in plan) == 800
    assert sum(r.atrophy for r in plan[:96]) == 48
    for of in (lambda r: (r.base, r.contrast), lambda r: r.thickness_mm):
        counts = Counter((of(r), r.atrophy) for r in plan)
        for value in {of(r) for r in plan}:
            ones, zeros = counts[value, 1], counts[value, 0]
            assert abs(ones - zeros) < 4 * np.sqrt(ones + zeros)


def test_every_base_and_contrast_appears_equally_often() -> None:
    counts = Counter((r.base, r.contrast) for r in plan_renderings(0, 40, BASES))
    assert counts == {("mni152", "T1"): 10, ("mni152", "T2"): 10, ("mni152", "FLAIR"): 10, ("groupmean", "T1"): 10}


def test_the_atrophy_changes_a_region_around_the_ventricles_and_nothing_else(head: Anatomy) -> None:
    rendering = Rendering(5, "mni152", "T1", 0, 3.0)
    healthy, ill = (render(head, replace(rendering, atrophy=label), 0) for label in (0, 1))
    changed = np.argwhere(np.asarray(healthy.dataobj) != np.asarray(ill.dataobj))
    site = apply_affine(head.affine, head.site_3 - 0.5)
    distance = np.linalg.norm(apply_affine(healthy.affine, changed) - site, axis=1)
    assert len(changed) > 1000
    assert distance.max() < ATROPHY_RADIUS_MM + 20  # the random deformation moves the site by less than this


def test_the_atrophy_enlarges_the_ventricles(head: Anatomy) -> None:
    rendering = Rendering(5, "mni152", "T2", 0, 2.0)
    images = [render(head, replace(rendering, atrophy=label), 0) for label in (0, 1)]
    voxels = np.indices(images[0].shape).reshape(3, -1).T
    site = apply_affine(head.affine, head.site_3 - 0.5)
    near = np.linalg.norm(apply_affine(images[0].affine, voxels) - site, axis=1).reshape(images[0].shape) < 25
    healthy, ill = (np.asarray(image.dataobj)[near] for image in images)
    fluid = 0.6 * np.percentile(healthy, 99.5)
    assert (ill > fluid).sum() > 1.3 * (healthy > fluid).sum() > 0


def test_contrasts_order_the_tissues_as_scanners_do(head: Anatomy) -> None:
    """Mean signal where a tissue fills the voxel, read from the undeformed channels: T1 WM > GM > CSF, T2 reversed."""
    csf, _, wm = (head.channels_CXYZ[i] > 0.95 for i in range(3))
    gm = head.channels_CXYZ[1] > 0.9
    t1 = np.tensordot([*head.tissue_t1, 1, 1], head.channels_CXYZ, 1)
    assert t1[wm].mean() > t1[gm].mean() > t1[csf].mean() > 0


def test_the_channels_add_up_to_the_t1(head: Anatomy) -> None:
    import nibabel as nib

    image = nib.load(_mni152("t1"))
    corner = np.rint(np.linalg.inv(image.affine) @ head.affine[:, 3]).astype(int)[:3]
    box = tuple(slice(c, c + n) for c, n in zip(corner, head.channels_CXYZ.shape[1:], strict=True))
    truth = np.asarray(image.dataobj)[box].astype(np.float64)
    total = np.tensordot([*head.tissue_t1, 1, 1], head.channels_CXYZ.astype(np.float64), 1)
    white = truth[head.channels_CXYZ[2] > 0.95].mean() / total[head.channels_CXYZ[2] > 0.95].mean()
    np.testing.assert_allclose(total * white, truth, atol=1e-3 * white + 0.05)


@pytest.mark.parametrize("thickness", [1.0, 5.0])
def test_spacing_and_place_of_the_output(head: Anatomy, thickness: float) -> None:
    image = render(head, Rendering(0, "mni152", "T1", 0, thickness), 0)
    spacing = np.array(image.header.get_zooms())
    assert spacing[2] == pytest.approx(thickness)
    assert 1.8 <= spacing[0] == spacing[1] <= 2.2
    extent = np.array(head.channels_CXYZ.shape[1:]) * head.spacing
    assert (np.abs(image.shape * spacing - extent) <= spacing).all()
    first_corner = apply_affine(image.affine, [-0.5] * 3)
    np.testing.assert_allclose(first_corner, apply_affine(head.affine, [-0.5] * 3), atol=1e-4)
    assert image.get_data_dtype() == np.int16
    assert (np.asarray(image.dataobj)[0] == 0).all(), "a stripped brain lies on exact zeros"


def test_the_name_says_that_it_is_a_variant_and_of_which_brain() -> None:
    rendering = Rendering(7, "mni152", "T2", 0, 1.0)
    assert rendering.file_name == "variant-0007_base-mni152_T2w.nii.gz"
    assert rendering.id == "r0007"
