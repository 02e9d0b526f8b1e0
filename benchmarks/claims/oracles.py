"""Measurements that know the signal: how well each label can be read at all from a scan.

They know the head under the scan, where its regions and the lesion lie, and the patterns; not the labels.

Axes: Z/Y/X voxels, K regions of a label.
"""

from __future__ import annotations

import numpy as np

from claims.bands import above_half, detail, filtered, size_of
from claims.factorial import LABELS
from claims.heads import Array
from claims.rendering import Rendering
from claims.signals import SPLIT, Frame, blob, pattern, shrunk
from claims.textures import radius


def oracle(rendering: Rendering, scan_ZYX: Array) -> dict[str, float]:
    """A score for each label, larger where it is 1, of a rendering's scan or of what became of it."""
    inside_ZYX, frame = rendering.head.inside_ZYX, rendering.frame
    y_ZYX = np.where(inside_ZYX, (scan_ZYX - scan_ZYX[inside_ZYX].mean()) / scan_ZYX[inside_ZYX].std(), 0.0)
    found_ZYX = detail(y_ZYX) * frame.inner_ZYX
    share = np.sum(found_ZYX * frame.detail_ZYX) / np.sum(frame.detail_ZYX**2)
    rest_ZYX = found_ZYX - share * frame.detail_ZYX
    scores = {
        "sharpness": share * np.linalg.norm(frame.detail_ZYX) / max(float(np.linalg.norm(found_ZYX)), 1e-9),
        "texture": _fineness(rest_ZYX),
        "regional": _along_pattern(rest_ZYX, frame, correlated=False),
        "regional_correlated": _along_pattern(rest_ZYX, frame, correlated=True),
        "atrophy": _atrophy(rendering, y_ZYX),
        "lesion": _darkness(rendering, y_ZYX),
    }
    return {name: float(scores[name]) for name in LABELS}


def _fineness(rest_ZYX: Array) -> float:
    """Log ratio of fine to coarse energy."""
    size = size_of(rest_ZYX)
    fine = np.sum(filtered(rest_ZYX, above_half(size) * (radius(size) > SPLIT)) ** 2)
    return float(np.log(max(fine, 1e-9) / max(np.sum(rest_ZYX**2) - fine, 1e-9)))


def _along_pattern(rest_ZYX: Array, frame: Frame, *, correlated: bool) -> float:
    """Log energies of the label's regions along its pattern."""
    own_K, sign_K = pattern(correlated)
    energy_K = [np.mean(rest_ZYX[frame.region_ZYX == k] ** 2) for k in own_K]
    return float(sign_K @ np.log(np.maximum(energy_K, 1e-12)))


def _atrophy(rendering: Rendering, y_ZYX: Array) -> float:
    """How much of the difference between a head that gives way and one that closes in there is."""
    head, dose = rendering.head, max(rendering.doses.atrophy, 0.05)
    one, other = (shrunk(head, label, dose).x_ZYX for label in (1, 0))
    difference_ZYX = np.where(head.inside_ZYX, one - other, 0.0)
    return float(np.sum((y_ZYX - head.x_ZYX) * difference_ZYX) / np.sum(difference_ZYX**2))


def _darkness(rendering: Rendering, y_ZYX: Array) -> float:
    """How much darker than the head the scan is at the lesion's place, beside the rest of the head."""
    ball_ZYX = blob(rendering.frame, rendering.lesion_place)
    change_ZYX = np.where(rendering.head.inside_ZYX, y_ZYX - rendering.shrunk.x_ZYX, 0.0)
    return -float(np.sum(change_ZYX * ball_ZYX) / np.sum(ball_ZYX))
