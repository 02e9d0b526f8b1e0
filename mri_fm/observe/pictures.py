"""Pictures of what the network makes of a volume: NumPy arrays in, figures out. Imports no torch.

Axes: Z/Y/X voxels or tokens, D width, 3 colours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

Array = NDArray[Any]
PLANES = ("axial", "coronal", "sagittal")


def figures(arrays: Mapping[str, Array]) -> dict[str, Figure]:
    """What can be made of these arrays: "reconstruction" of truth, mosaic, hidden; "tokens" of truth and tokens."""
    found = {}
    if "mosaic" in arrays:
        found["reconstruction"] = reconstruction_figure(arrays["truth"], arrays["mosaic"], arrays["hidden"])
    if "tokens" in arrays:
        found["tokens"] = token_figure(arrays["truth"], arrays["tokens"])
    return found


def reconstruction_figure(truth_ZYX: Array, mosaic_ZYX: Array, hidden_ZYX: Array) -> Figure:
    """Input, mask, reconstruction and error in the middle slice; below, spectra of both and their means over shells.

    Args:
        truth_ZYX: the input.
        mosaic_ZYX: truth at visible patches, prediction at hidden ones.
        hidden_ZYX: which voxels were hidden.
    """
    middle = truth_ZYX.shape[0] // 2
    low, high = float(truth_ZYX.min()), float(np.quantile(truth_ZYX, 0.995))
    figure = Figure(figsize=(12, 6), layout="constrained")
    axes = figure.subplots(2, 4)
    seen_ZYX = np.where(hidden_ZYX, low, truth_ZYX)
    titles = ("input", "visible to the encoder", "reconstruction")
    for axis, volume_ZYX, title in zip(axes[0], (truth_ZYX, seen_ZYX, mosaic_ZYX), titles, strict=False):
        _show(axis, volume_ZYX[middle], title, cmap="gray", vmin=low, vmax=high)
    error_YX = (mosaic_ZYX - truth_ZYX)[middle]
    _show(axes[0, 3], error_YX, "error", cmap="RdBu_r", vmin=-(high - low) / 2, vmax=(high - low) / 2)
    _spectra(axes[1], truth_ZYX, mosaic_ZYX)
    return figure


def _spectra(axes: Array, truth_ZYX: Array, mosaic_ZYX: Array) -> None:
    spectra = [np.log1p(np.abs(np.fft.fftshift(np.fft.fftn(v)))) for v in (truth_ZYX, mosaic_ZYX)]
    middle = truth_ZYX.shape[0] // 2
    for axis, spectrum, title in zip(axes, spectra, ("log-spectrum of the input", "of the reconstruction"), strict=False):
        _show(axis, spectrum[middle], title, cmap="magma", vmin=0, vmax=spectra[0].max(), aspect="auto")
    for spectrum, label, colour in zip(spectra, ("input", "reconstruction"), ("#1f5fa8", "#d9822b"), strict=True):
        axes[2].plot(*radial_mean(spectrum), label=label, color=colour)
    axes[2].set(title="mean over shells", xlabel="cycles per voxel", ylabel="log magnitude")
    axes[2].legend(frameon=False)
    frequency, error = radial_mean(np.abs(np.fft.fftshift(np.fft.fftn(mosaic_ZYX - truth_ZYX))) ** 2)
    power = radial_mean(np.abs(np.fft.fftshift(np.fft.fftn(truth_ZYX))) ** 2)[1]
    axes[3].plot(frequency, error / np.maximum(power, np.finfo(float).tiny), color="#b0413e")
    axes[3].set(title="squared error / power", xlabel="cycles per voxel", ylim=(0, None))
    for axis in axes[2:]:
        axis.spines[["top", "right"]].set_visible(False)


def radial_mean(spectrum_ZYX: Array, bins: int = 32) -> tuple[Array, Array]:
    """Mean of a centred spectrum over shells of equal frequency, up to Nyquist.

    Returns:
        frequencies in cycles per voxel (shells that hold no bin are left out) and the means, both (≤ bins,).
    """
    axes = [np.fft.fftshift(np.fft.fftfreq(n)) for n in spectrum_ZYX.shape]
    radius = np.sqrt(sum(grid**2 for grid in np.meshgrid(*axes, indexing="ij")))
    shell = np.minimum((radius / 0.5 * bins).astype(int), bins).ravel()
    count = np.bincount(shell, minlength=bins + 1)[:bins]
    total = np.bincount(shell, weights=spectrum_ZYX.ravel(), minlength=bins + 1)[:bins]
    filled = count > 0
    return ((np.arange(bins) + 0.5) * 0.5 / bins)[filled], total[filled] / count[filled]


def token_figure(truth_ZYX: Array, tokens_ZYXD: Array) -> Figure:
    """The input in its three middle planes, and there the first three principal components of the tokens as colours.

    Equal colours are features alike, after DINOv2 (Oquab et al., TMLR 2024, figure 1). One colour everywhere is collapse;
    colours that follow the position alone, not the anatomy, are a network that has not learned.

    Args:
        truth_ZYX: the input.
        tokens_ZYXD: the encoder's tokens on their grid.
    """
    colour_ZYX3, share = token_colours(tokens_ZYXD)
    low, high = float(truth_ZYX.min()), float(np.quantile(truth_ZYX, 0.995))
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots(2, 3)
    for column, plane in enumerate(PLANES):
        cut, token_cut = (_middle(volume, column) for volume in (truth_ZYX, colour_ZYX3))
        aspect = "equal" if cut.shape[0] == cut.shape[1] else "auto"
        _show(axes[0, column], cut, plane, cmap="gray", vmin=low, vmax=high, aspect=aspect)
        _show(axes[1, column], token_cut, "", aspect=aspect)
    axes[1, 1].set_title(f"principal components of the tokens: {share[0]:.0%}, {share[1]:.0%}, {share[2]:.0%} of the variance")
    return figure


def token_colours(tokens_ZYXD: Array) -> tuple[Array, Array]:
    """The first three principal components over all tokens, each stretched from its 1st to its 99th percentile to 0 … 1.

    Returns:
        colours (Z, Y, X, 3) and the shares of the variance (3,). Tokens that are all alike are grey.
    """
    token_ND = tokens_ZYXD.reshape(-1, tokens_ZYXD.shape[-1]).astype(np.float64)
    token_ND = token_ND - token_ND.mean(axis=0)
    left_NK, spectrum_K, _ = np.linalg.svd(token_ND, full_matrices=False)
    component_N3 = np.zeros((len(token_ND), 3))
    count = min(3, len(spectrum_K))
    component_N3[:, :count] = left_NK[:, :count] * spectrum_K[:count]
    low_3, high_3 = np.percentile(component_N3, [1, 99], axis=0)
    spread_3 = high_3 - low_3
    flat_3 = spread_3 <= 1e-6 * max(1.0, float(np.abs(tokens_ZYXD).max()))
    colour_N3 = np.where(flat_3, 0.5, np.clip((component_N3 - low_3) / np.where(flat_3, 1.0, spread_3), 0, 1))
    share_3 = np.zeros(3)
    share_3[:count] = np.square(spectrum_K[:count]) / max(float(np.square(spectrum_K).sum()), np.finfo(float).tiny)
    return colour_N3.reshape(*tokens_ZYXD.shape[:3], 3), share_3


def _middle(volume_ZYX: Array, axis: int) -> Array:
    return np.take(volume_ZYX, volume_ZYX.shape[axis] // 2, axis=axis)


def _show(axis: Axes, picture: Array, title: str, **options: Any) -> None:
    axis.imshow(picture, origin="lower", **options)
    axis.set_title(title)
    axis.set_axis_off()
