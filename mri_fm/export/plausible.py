"""What is unusual in a scan, though nothing forbids it; asked where nobody may have looked at it, as in `mri-fm embed`."""

from __future__ import annotations

import numpy as np

from mri_fm.volume.prepare import Prepared

EXTENT_MM = (90.0, 220.0)  # along each axis: from a small child's brain to a head without its neck
AXES = ("z", "y", "x")


def extent_mm(prepared: Prepared) -> tuple[float, float, float]:
    """Millimetres that the foreground covers along z, y, x."""
    mask = prepared.crop.voxels != 0
    extents = []
    for axis, spacing in enumerate(prepared.canonical.spacing):
        (present,) = np.nonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        extents.append(float((present[-1] - present[0] + 1) * spacing))
    return extents[0], extents[1], extents[2]


def unusual_extent(prepared: Prepared) -> str:
    """What is unusual in how much the foreground covers, "" if nothing is. Not a reason to refuse: a neck can be it."""
    low, high = EXTENT_MM
    outside = [f"{mm:.0f} mm along {axis}" for axis, mm in zip(AXES, extent_mm(prepared), strict=True) if not low <= mm <= high]
    if not outside:
        return ""
    return f"the head covers {', '.join(outside)}, not {low:g} to {high:g}: a part of one, more than one, or wrong units?"
