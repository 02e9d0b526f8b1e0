"""A fingerprint knows an anatomy through what may happen to a file, and tells two people apart."""

import nibabel
import numpy as np
import pytest
from nibabel.processing import resample_to_output
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from mri_fm.volume.prepare import prepare_volume
from mri_fm.volume.read import Volume
from preprocessing.fingerprint import NEAR_DUPLICATE, Head, align, fingerprint, individual, load_reference
from tests.corpora import flipped
from tests.replicas.people import changed, head

PEOPLE = 6


def crop_of(image: nibabel.Nifti1Image) -> tuple[NDArray[np.int16], tuple[float, float, float]]:
    prepared = prepare_volume(Volume(np.asarray(image.dataobj, np.float32), image.affine, "float32"), max_spacing=6.5)
    return prepared.crop.voxels, prepared.canonical.spacing


def own(images: list[nibabel.Nifti1Image]) -> NDArray[np.float32]:
    patterns = np.stack([fingerprint(*crop_of(image)) for image in images])
    return individual(patterns, ["T1"] * len(images), ["one"] * len(images), load_reference().shared_D)


def turned(image: nibabel.Nifti1Image, degrees: tuple[float, float, float]) -> nibabel.Nifti1Image:
    """The head turned in its scanner, on a grid of its own."""
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    return resample_to_output(nibabel.Nifti1Image(np.asarray(image.dataobj), turn @ image.affine), (4.5, 5, 4), order=1)


@pytest.fixture(scope="module")
def people() -> NDArray[np.float32]:
    return own([head(person) for person in range(PEOPLE)])


def test_two_people_are_not_taken_for_one(people: NDArray[np.float32]) -> None:
    similarity = people @ people.T
    assert np.diag(similarity) == pytest.approx(1, abs=1e-5)
    assert similarity[~np.eye(PEOPLE, dtype=bool)].max() < NEAR_DUPLICATE


@pytest.mark.parametrize(
    "alter",
    [
        lambda image: head(2, scan=5),
        lambda image: resample_to_output(image, (4, 3.5, 6), order=1),
        lambda image: turned(image, (8, -4, 6)),
        lambda image: changed(image, lambda v: 40 + 0.3 * v),
        lambda image: changed(image, lambda v: v**1.4),
        lambda image: image.slicer[2:-2, 1:, 4:],
    ],
    ids=["rescanned with another bias", "resampled", "turned", "scaled", "gamma", "cropped"],
)
def test_one_anatomy_is_known_again(people: NDArray[np.float32], alter) -> None:
    (altered,) = own([alter(head(2))])
    similarity = people @ altered
    assert similarity[2] >= NEAR_DUPLICATE
    assert similarity[2] > np.delete(similarity, 2).max() + 0.2


def test_the_way_it_is_stored_does_not_matter() -> None:
    one, other = own([head(1), flipped(head(1), "PSL")])
    assert one @ other == pytest.approx(1, abs=1e-3)


def test_alignment_finds_a_known_shift() -> None:
    voxels, spacing = crop_of(head(3))
    levels = load_reference().levels_L
    matrix, shift = align(Head(voxels, spacing), levels)
    moved, moved_shift = align(Head(np.pad(voxels, ((3, 0), (0, 0), (6, 0))), spacing), levels)
    assert moved == pytest.approx(matrix, abs=0.01)
    assert moved_shift - shift == pytest.approx([15, 0, 30], abs=0.5)


def test_what_people_share_is_removed() -> None:
    rng = np.random.default_rng(0)
    shared, more = rng.normal(size=(2, 300)).astype(np.float32)
    patterns = (2 * shared + 3 * more + rng.normal(size=(40, 300))).astype(np.float32)
    names = [str(number) for number in range(40)]
    few = individual(patterns[:10], ["T1"] * 10, names[:10], shared)
    assert np.abs(few @ (shared / np.linalg.norm(shared))).max() < 1e-3
    assert (few @ few.T)[0, 1] > 0.5
    many = individual(patterns, ["T1"] * 40, names, shared)
    assert abs(float(np.mean((many @ many.T)[~np.eye(40, dtype=bool)]))) < 0.05
    one_person = individual(patterns, ["T1"] * 40, ["same"] * 40, shared)
    assert (one_person @ one_person.T)[0, 1] > 0.5


@pytest.mark.parametrize("value", [0, 7])
def test_a_volume_without_structure_has_a_finite_fingerprint(value: int) -> None:
    assert np.isfinite(fingerprint(np.full((20, 20, 20), value, np.int16), (5, 5, 5))).all()
