"""Pictures of each label: one head with the label 0 and 1, all else equal, their difference, before scanning and after.

Axes: Z/Y/X voxels.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np

from claims.factorial import LABELS
from claims.heads import Head
from claims.rendering import Rendering, reference_of, render
from claims.signals import Doses

mpl.use("Agg")


def pair(seed: int, head: Head, name: str, doses: Doses) -> tuple[Rendering, Rendering]:
    """The same rendering with one label 0 and 1."""
    reference = reference_of(seed, head, doses)
    plain = dict.fromkeys(LABELS, 0) | {"sharpness": 1}
    one, other = (render(seed, head, 0, doses, reference, labels=plain | {name: label}) for label in (0, 1))
    return one, other


def draw_gallery(seed: int, head: Head, file: Path, doses: Doses | None = None) -> None:
    """A row for each label."""
    figure, grid = plt.subplots(len(LABELS), 4, figsize=(11, 2.7 * len(LABELS)))
    for line, name in zip(grid, LABELS, strict=True):
        zero, one = pair(seed, head, name, doses or Doses())
        plane = int(one.lesion_place[0]) if name == "lesion" else len(head.x_ZYX) // 2
        low, high = np.quantile(zero.scan_ZYX[head.inside_ZYX], [0.005, 0.995])
        for axes, x_ZYX, title in zip(line, (zero.scan_ZYX, one.scan_ZYX), (f"{name} 0", f"{name} 1"), strict=False):
            axes.imshow(x_ZYX[plane], cmap="gray", origin="lower", vmin=low, vmax=high)
            axes.set_title(title)
        difference_ZYX = one.scan_ZYX - zero.scan_ZYX
        reach = np.quantile(np.abs(difference_ZYX[head.inside_ZYX]), 0.99) + 1e-9
        line[2].imshow(difference_ZYX[plane], cmap="RdBu_r", origin="lower", vmin=-reach, vmax=reach)
        line[3].imshow(difference_ZYX[:, difference_ZYX.shape[1] // 2], cmap="RdBu_r", origin="lower", vmin=-reach, vmax=reach)
        line[2].set_title("difference")
        line[3].set_title("coronal")
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
    figure.tight_layout()
    figure.savefig(file, dpi=60)
    plt.close(figure)
