"""Error rates of the near-duplicate test on real people, each scan altered in many ways; and how its reference head is made.

    python benchmarks/near_duplicates.py --data FOLDER                  # a BIDS folder of T1 scans, one per person
    python benchmarks/near_duplicates.py --data FOLDER --make-reference # writes preprocessing/reference_head.npz first
    python benchmarks/near_duplicates.py --heads A.nii.gz B.nii.gz      # single heads of about 1 mm, whole or stripped

Every second person makes the reference; the rates are of the others, whom it does not know.
Results: results/near_duplicates.md.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation
from scipy.stats import norm

from mri_fm.volume.prepare import prepare_volume
from mri_fm.volume.read import Volume
from preprocessing.fingerprint import (
    FEATURE_MM,
    NEAR_DUPLICATE,
    OUTLINE_MM,
    REFERENCE_FILE,
    TEXTURE_FWHM_MM,
    Head,
    align,
    fingerprint,
    grid,
    individual,
    load_reference,
    make_reference,
    refine,
)

SMALL_CHANGES = ("1.5 mm", "3 mm", "5 mm axial", "5 mm sagittal", "gamma 0.7", "gamma 1.5", "bias field", "noise",
                 "box -8…-24 mm", "turned 5°", "turned 11°", "turned, 8 % larger", "all at once")  # fmt: skip
GRIDS = {"1.5 mm": (1.5, 1.5, 1.5), "3 mm": (3, 3, 3), "5 mm axial": (1.2, 1.2, 5), "5 mm sagittal": (5, 1.5, 1.5)}
Crop = tuple[np.ndarray, tuple[float, ...]]


def on_grid(array, affine, spacing, degrees=(0, 0, 0), shift=(0, 0, 0), scale=1.0):
    """A scan resampled to a spacing, turned about its centre, shifted and scaled, without aliasing."""
    stored = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    shape = np.ceil(np.array(array.shape) * stored / spacing).astype(int)
    centre = (affine @ np.append((np.array(array.shape) - 1) / 2, 1))[:3]
    target = np.diag([*spacing, 1.0])
    target[:3, 3] = centre - np.array(spacing) * (shape - 1) / 2
    motion = np.eye(4)
    motion[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix() / scale
    motion[:3, 3] = centre - motion[:3, :3] @ centre + shift
    to_voxels = np.linalg.inv(affine) @ motion @ target
    factor = np.array(spacing) / stored
    smooth = ndimage.gaussian_filter(array, np.where(factor > 1.01, 0.42 * factor, 0))
    return ndimage.affine_transform(smooth, to_voxels[:3, :3], to_voxels[:3, 3], tuple(shape), order=1), target


def with_bias(array, rng, strength):
    field = ndimage.zoom(rng.uniform(-strength, strength, (3, 3, 3)), [n / 3 for n in array.shape], order=1)
    return array * np.exp(field[tuple(map(slice, array.shape))])


def cut(array, affine, low, high):
    """Without `low` voxels at the start and `high` at the end of each axis."""
    moved = affine.copy()
    moved[:3, 3] = (affine @ [*low, 1])[:3]
    return array[tuple(slice(a, n - b) for a, b, n in zip(low, high, array.shape, strict=True))], moved


def alterations(
    array: np.ndarray, affine: np.ndarray, rng: np.random.Generator
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """The scan itself and one altered copy of each kind; the last kind is beyond what is promised."""
    top = array.max()
    yield "itself", array, affine
    for name, spacing in GRIDS.items():
        yield name, *on_grid(array, affine, spacing)
    yield "gamma 0.7", (array / top) ** 0.7, affine
    yield "gamma 1.5", (array / top) ** 1.5, affine
    yield "bias field", with_bias(array, rng, 0.35), affine
    yield "noise", np.abs(array + rng.normal(0, 0.03 * top, array.shape)), affine
    yield "box -8…-24 mm", *cut(array, affine, (4, 5, 12), (4, 5, 3))
    yield "turned 5°", *on_grid(array, affine, (2, 2, 2), (5, -4, 3), (4, -6, 5))
    yield "turned 11°", *on_grid(array, affine, (2, 2, 2), (10, 3, -6), (4, -6, 5))
    yield "turned, 8 % larger", *on_grid(array, affine, (1.8, 1.8, 1.8), (6, 2, -3), (3, 3, 8), 1.08)
    moved, grid_affine = on_grid(array, affine, (2.3, 2.3, 2.3), (3, -2, 4), (2, -3, 5))
    worse = np.abs(900 * with_bias((moved / top).clip(0) ** 0.8, rng, 0.3) + rng.normal(0, 15, moved.shape))
    yield "all at once", *cut(worse, grid_affine, (3, 3, 8), (3, 3, 0))
    yield "lowest 50 mm cut off", *cut(array, affine, (0, 0, 25), (0, 0, 0))


def crop_of(array: np.ndarray, affine: np.ndarray) -> Crop:
    """What the build would store."""
    prepared = prepare_volume(Volume(array, affine, "float32"), max_spacing=6.5)
    return prepared.crop.voxels, prepared.canonical.spacing


def write_reference(crops: list[Crop]) -> None:
    """Mean outline by repeated alignment, and the mean of the unit patterns."""
    heads = [Head(*crop) for crop in crops]
    points, shape = grid(OUTLINE_MM)
    outline = np.mean([h.sample(h.blurred(h.tissue, 6.0), points + h.centre()) for h in heads], axis=0).reshape(shape)
    for _ in range(3):
        poses = [align(head, make_reference(outline, (), None).levels_L) for head in heads]
        back = np.linalg.inv(np.mean([matrix for matrix, _ in poses], axis=0))
        places = [(points @ back.T) @ matrix.T + shift for matrix, shift in poses]
        outline = np.mean([h.sample(h.blurred(h.tissue, 6.0), p) for h, p in zip(heads, places, strict=True)], axis=0).reshape(
            shape
        )
    stored = np.rint(255 * outline.clip(0, 1)).astype(np.uint8)
    textures, (points, shape) = [], grid(FEATURE_MM)
    for _ in range(3):
        reference = make_reference(stored / 255, textures, None)
        poses = [refine(head, reference.textures_L, *align(head, reference.levels_L)) for head in heads]
        places = [points @ matrix.T + shift for matrix, shift in poses]
        seen = [[h.sample(h.texture(f), p) for h, p in zip(heads, places, strict=True)] for f in TEXTURE_FWHM_MM]
        kept = np.rint(100 * np.mean(seen, axis=1)).clip(-127, 127).astype(np.int8).reshape(len(seen), *shape)
        textures = [texture / 100 for texture in kept.astype(np.float64)]
    reference = make_reference(stored / 255, textures, None)
    patterns = np.stack([fingerprint(*crop, reference) for crop in crops])
    shared = (patterns / np.linalg.norm(patterns, axis=1, keepdims=True)).mean(axis=0)
    np.savez_compressed(REFERENCE_FILE, outline=stored, textures=kept, shared=shared.astype(np.float16))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--heads", type=Path, nargs="+", default=())
    parser.add_argument("--make-reference", action="store_true")
    arguments = parser.parse_args()
    if arguments.heads:
        single_heads([nibabel.load(file) for file in arguments.heads])
    if arguments.data is None:
        return
    files = sorted(arguments.data.glob("sub-*/anat/*_T1w.nii.gz"))
    images = [nibabel.load(file) for file in files]
    plain = [(np.asarray(image.dataobj, np.float32), image.affine) for image in images]
    if arguments.make_reference:
        write_reference([crop_of(*scan) for scan in plain[::2]])
        print(f"{REFERENCE_FILE}: {len(plain[::2])} people, {REFERENCE_FILE.stat().st_size / 1e3:.0f} kB")
    patterns, people, kinds, seconds = [], [], [], 0.0
    for person, scan in enumerate(plain[1::2]):
        for kind, array, affine in alterations(*scan, np.random.default_rng(person)):
            crop = crop_of(array, affine)
            start = time.process_time()
            patterns.append(fingerprint(*crop))
            seconds += time.process_time() - start
            people.append(person)
            kinds.append(kind)
    rates(np.stack(patterns), np.array(people), np.array(kinds), seconds)


def single_heads(images: list[nibabel.Nifti1Image]) -> None:
    """Print how alike each head's altered copies at 2 mm are to it, and the heads to each other."""
    patterns, owners, kinds = [], [], []
    for number, image in enumerate(images):
        halved = np.asarray(image.dataobj, np.float32)[::2, ::2, ::2]
        for kind, array, affine in alterations(halved, image.affine @ np.diag([2, 2, 2, 1]), np.random.default_rng(1)):
            patterns.append(fingerprint(*crop_of(array, affine)))
            owners.append(number)
            kinds.append(kind)
    own = individual(np.stack(patterns), ["T1"] * len(kinds), ["one"] * len(kinds), load_reference().shared_D)
    product = own @ own.T
    firsts = [row for row, kind in enumerate(kinds) if kind == "itself"]
    for number, first in enumerate(firsts):
        mine = [f"{kinds[row]} {product[first, row]:.2f}" for row in range(len(kinds)) if owners[row] == number]
        print(f"{images[number].get_filename()}: {', '.join(mine)}")
        print(f"  unaltered heads: {' '.join(f'{product[first, other]:.2f}' for other in firsts)}")


def rates(patterns: np.ndarray, people: np.ndarray, kinds: np.ndarray, seconds: float) -> None:
    """Print what separates one anatomy from two, with few people (the reference's shared pattern) and with many (their own)."""
    number, shared = len(people), load_reference().shared_D
    print(
        f"{len(set(people))} people, {number} volumes, {patterns.shape[1]} features, {1e3 * seconds / number:.0f} ms CPU each"
    )
    for title, names in (("few people", ["one"] * number), ("many people", [str(person) for person in people])):
        own = individual(patterns, ["T1"] * number, names, shared)
        product = own @ own.T
        print(f"\n{title}")
        print_different(product[people[:, None] < people[None, :]])
        print_same(product, people, kinds)


def print_different(values: np.ndarray) -> None:
    print(f"two people: {len(values)} pairs, mean {values.mean():.3f}, sd {values.std():.3f}, max {values.max():.3f}")
    for threshold in (0.4, 0.45, 0.5, 0.55, 0.6):
        tail = norm.sf(np.arctanh(threshold), *norm.fit(np.arctanh(values)))
        print(f"  taken for one at {threshold:.2f}: {(values >= threshold).mean():.1e} measured, {tail:.1e} by a normal tail")


def print_same(product: np.ndarray, people: np.ndarray, kinds: np.ndarray) -> None:
    whole = {person: row for row, person in enumerate(people) if kinds[row] == "itself"}
    for kind in dict.fromkeys(kinds):
        values = np.array([product[row, whole[people[row]]] for row in np.flatnonzero(kinds == kind)])
        print(
            f"{kind:22} min {values.min():.3f}  median {np.median(values):.3f}  missed {(values < NEAR_DUPLICATE).mean():.3f}"
        )
    promised = np.isin(kinds, ("itself", *SMALL_CHANGES))
    same = (people[:, None] == people[None, :]) & (kinds[:, None] < kinds[None, :]) & promised[:, None] & promised[None, :]
    values = product[same]
    for threshold in (0.4, 0.45, 0.5, 0.55, 0.6):
        print(f"  any two of one anatomy, missed at {threshold:.2f}: {(values < threshold).mean():.1e} of {len(values)}")


if __name__ == "__main__":
    main()
