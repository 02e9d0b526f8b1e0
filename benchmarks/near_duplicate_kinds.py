"""Error rates of the near-duplicate test on whole heads and on other contrasts than the T1 of a stripped brain.

    python benchmarks/near_duplicate_kinds.py --data FOLDER --head ch2.nii.gz --brain ch2bet.nii.gz

No set of whole heads of many people, or of people in several contrasts, comes with the installation. The anatomies here are
those of real people, of whom the reference knows nothing (as in near_duplicates.py); contrast and skull are made: a T1 becomes
a T2 or a FLAIR by a map of its intensities, which three classes of tissue fix, and a stripped brain is put into the one head
of Colin27, scaled along each axis to the box of the brain. That everybody has the same skull makes two people more alike.
Results: results/near_duplicates.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
from scipy import ndimage
from scipy.cluster.vq import kmeans2

from benchmarks.near_duplicates import alterations, crop_of
from preprocessing.fingerprint import NEAR_DUPLICATE, fingerprint, individual, load_reference
from preprocessing.rendering import WEIGHTS

CHANGES = ("itself", "1.5 mm", "5 mm axial", "gamma 1.5", "bias field", "noise", "box -8…-24 mm", "turned 11°", "all at once")
ROOM = 12  # voxels on each side
CONTRASTS = ("T1", "T2", "FLAIR")
Scan = tuple[np.ndarray, np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="BIDS folder of stripped T1 scans, one per person")
    parser.add_argument("--head", type=Path, required=True, help="one whole head")
    parser.add_argument("--brain", type=Path, required=True, help="the same, stripped")
    parser.add_argument("--people", type=int, default=29)
    arguments = parser.parse_args()
    files = sorted(arguments.data.glob("sub-*/anat/*_T1w.nii.gz"))[1::2][: arguments.people]
    images = [nibabel.load(file) for file in files]
    head, brain = (nibabel.load(file) for file in (arguments.head, arguments.brain))
    unaltered = {}
    for contrast in CONTRASTS:
        for whole in (False, True):
            rows = []
            for person, image in enumerate(images):
                scan = made(np.asarray(image.dataobj, np.float32), image.affine, contrast, (head, brain) if whole else None)
                rows += [(person, kind, pattern) for kind, pattern in patterns(scan, person)]
            unaltered[contrast, whole] = report(f"{contrast}, {'whole' if whole else 'stripped'}", contrast, rows)
    for contrast in CONTRASTS:
        across(f"{contrast}, whole against stripped", unaltered[contrast, True], unaltered[contrast, False])
    across("T1 against T2, stripped", unaltered["T1", False], unaltered["T2", False])


def made(t1: np.ndarray, affine: np.ndarray, contrast: str, head: tuple | None) -> Scan:
    """A person's stripped T1 in another contrast, and in a head if one is given (the head, and its brain)."""
    if head is not None:  # which is larger than the brain's field of view
        t1, affine = np.pad(t1, ROOM), affine @ np.array([[1, 0, 0, -ROOM], [0, 1, 0, -ROOM], [0, 0, 1, -ROOM], [0, 0, 0, 1]])
    inside = t1 > 0
    centres = np.sort(kmeans2(t1[inside][::29, None], np.percentile(t1[inside], [5, 40, 80])[:, None], minit="matrix")[0][:, 0])
    signals = (*centres / centres[2], 1.0, 1.0) if contrast == "T1" else WEIGHTS[contrast]
    texture = (t1 - np.clip(t1, centres[0], centres[2])) / centres[2]
    result = np.where(inside, np.interp(t1, centres, signals[:3]) + signals[3] * texture, 0)
    if head is not None:
        around = surroundings(inside, affine, *head) * ~ndimage.binary_dilation(inside)
        result = result + signals[4] * around
    return (1000 * result.clip(0)).astype(np.float32), affine


def surroundings(inside: np.ndarray, affine: np.ndarray, head: nibabel.Nifti1Image, brain: nibabel.Nifti1Image) -> np.ndarray:
    """What lies around the brain of `head`, in units of its bright tissue, on the grid of `inside`, box laid on box."""
    stripped = np.asarray(brain.dataobj, np.float32)
    shell = np.asarray(head.dataobj, np.float32) * (stripped <= 0) / np.percentile(stripped[stripped > 0], 80)
    (low, high), (head_low, head_high) = box(inside, affine), box(stripped > 0, brain.affine)
    scale = (head_high - head_low) / (high - low)
    to_head = np.diag([*scale, 1.0])
    to_head[:3, 3] = head_low - scale * low
    matrix = np.linalg.inv(head.affine) @ to_head @ affine
    return ndimage.affine_transform(shell, matrix[:3, :3], matrix[:3, 3], inside.shape, order=1)


def box(inside: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The lowest and the highest RAS+ mm of the voxels."""
    places = np.argwhere(inside) @ affine[:3, :3].T + affine[:3, 3]
    return places.min(axis=0), places.max(axis=0)


def patterns(scan: Scan, person: int) -> Iterator[tuple[str, np.ndarray]]:
    """Fingerprints of the scan and of its altered copies."""
    for kind, array, affine in alterations(*scan, np.random.default_rng(person)):
        if kind in CHANGES:
            yield kind, fingerprint(*crop_of(array, affine))


def report(title: str, contrast: str, rows: list[tuple[int, str, np.ndarray]]) -> np.ndarray:
    """Print both error rates; returns the fingerprints of the unaltered scans."""
    people, kinds = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    stacked = np.stack([row[2] for row in rows])
    for names in (["one"] * len(rows), [str(person) for person in people]):
        own = individual(stacked, [contrast] * len(rows), names, load_reference().shared_D)
        product = own @ own.T
        two, same = product[people[:, None] < people[None, :]], product[(people[:, None] == people) & (kinds[:, None] < kinds)]
        copies = [product[row, np.flatnonzero((people == people[row]) & (kinds == "itself"))[0]]
                  for row in np.flatnonzero(kinds != "itself")]  # fmt: skip
        print(f"{title}, {'few' if names[0] == 'one' else 'many'} people: "
              f"two taken for one {rate(two >= NEAR_DUPLICATE)}, most alike {two.max():.2f}, mean {two.mean():.2f}, "
              f"sd {two.std():.2f}; copy against original missed {rate(np.array(copies) < NEAR_DUPLICATE)}, "
              f"least {min(copies):.2f}; any two copies missed {rate(same < NEAR_DUPLICATE)}, least {same.min():.2f}",
              flush=True)  # fmt: skip
    for kind in CHANGES[1:]:
        values = np.array([product[row, np.flatnonzero((people == people[row]) & (kinds == "itself"))[0]]
                           for row in np.flatnonzero(kinds == kind)])  # fmt: skip
        print(f"    {kind:16} min {values.min():.2f} median {np.median(values):.2f} missed {rate(values < NEAR_DUPLICATE)}")
    return stacked[kinds == "itself"]


def rate(wrong: np.ndarray) -> str:
    return f"{int(wrong.sum())} of {wrong.size}"


def across(title: str, one: np.ndarray, other: np.ndarray) -> None:
    """How alike the same people are in two kinds, and different ones."""
    own = individual(np.concatenate([one, other]), ["T1"] * 2 * len(one), ["one"] * 2 * len(one), load_reference().shared_D)
    product = own[: len(one)] @ own[len(one) :].T
    same, two = np.diag(product), product[~np.eye(len(one), dtype=bool)]
    print(f"{title}: one person missed {rate(same < NEAR_DUPLICATE)} (min {same.min():.2f}, median {np.median(same):.2f}); "
          f"two taken for one {rate(two >= NEAR_DUPLICATE)} (max {two.max():.2f})")  # fmt: skip


if __name__ == "__main__":
    main()
