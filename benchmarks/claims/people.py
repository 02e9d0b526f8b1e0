"""Whose heads are rendered: people of a BIDS folder, or smooth deformations of the heads that packages ship.

Axes: Z/Y/X voxels, 3 coordinates.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import ndimage

from claims.corpus import HELD_OUT
from claims.factorial import Draw, drawer
from claims.heads import Head, load_heads
from mri_fm.data.split_files import read_split

SIDE, SPACING = 40, 4.5
DEFORMATIONS = 4  # of each packaged head
REACH = 1.5  # voxels, standard deviation of a deformation at its nodes
NODES = 4  # along each axis


def load_people(
    bids: Path | None, *, most: int = 1000, side: int = SIDE, spacing: float = SPACING, seed: int = 0
) -> list[Head]:
    """People of a folder; without one, deformations of the packaged heads, which are no more anatomies than there are heads.

    All volumes are cubes, so that the corpus build and the loader keep every voxel of them.
    """
    if bids is not None:
        return load_heads(bids, side=side, spacing=spacing, most=most)
    heads = load_heads(None, side=side, spacing=spacing, most=most)
    return [deformed(head, seed, number) for number in range(DEFORMATIONS) for head in heads][:most]


def deformed(head: Head, seed: int, number: int) -> Head:
    """The `number`-th smooth deformation of a head; 0 is the head itself."""
    name = f"{head.name}-{number}"
    if number == 0:
        return Head(name, head.x_ZYX, head.inside_ZYX)
    node_3KKK = REACH * drawer(seed, name, 0, Draw.WARP).standard_normal((3, NODES, NODES, NODES))
    factors = [n / NODES for n in head.x_ZYX.shape]
    shift_3ZYX = np.stack([ndimage.zoom(node, factors, order=3) for node in node_3KKK])
    where_3ZYX = np.indices(head.x_ZYX.shape) + shift_3ZYX
    air = float(head.x_ZYX.min())
    inside_ZYX = ndimage.map_coordinates(head.inside_ZYX.astype(np.float64), where_3ZYX, order=1) > 0.5
    x_ZYX = ndimage.map_coordinates(head.x_ZYX, where_3ZYX, order=3, cval=air)
    return Head(name, np.where(inside_ZYX, x_ZYX, air), inside_ZYX)


def held_out(names: Sequence[str]) -> set[str]:
    """Whom no encoder is trained on: those of the fixed list; of names that are not on it, every third."""
    fixed = {subject for subject, _ in read_split(HELD_OUT)}
    return {name for name in names if name in fixed} or set(names[::3])
