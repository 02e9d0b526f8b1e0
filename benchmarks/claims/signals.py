"""The signals behind the labels, each with the counterpart that the other class has instead.

Axes: Z/Y/X voxels, K regions, 3 coordinates.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from claims.bands import above_half, bins, detail, filtered, radial_power, size_of
from claims.heads import Array, Head
from claims.textures import radius

K = 12  # regions that carry a label
SPLIT = 0.6  # of the largest frequency: coarse texture lies below, fine texture above
SPREAD = 0.7  # standard deviation over volumes of a region's log energy
ATROPHY_AT, ATROPHY_WIDTH = (0.0, -0.02, 0.0), 0.17  # from the middle of the head; in parts of the grid's side
LESION_WIDTH = 1.6  # voxels, standard deviation


@dataclass(frozen=True)
class Doses:
    """How strong each signal is.

    Attributes:
        sharpness: by how much the head's own detail is raised, relative to it.
        texture: standard deviation; the head's foreground has 1.
        regional, regional_correlated: distance of the classes, in standard deviations, along the pattern over regions.
        atrophy: largest relative change of length.
        lesion: amplitude; the head's foreground has 1.
        carrier: standard deviation of the texture whose energy differs between regions; no label's dose.
    """

    sharpness: float = 0.8
    texture: float = 0.2
    regional: float = 6.0
    regional_correlated: float = 2.0
    atrophy: float = 0.2
    lesion: float = 1.5
    carrier: float = 0.22

    def times(self, factor: float) -> Doses:
        """All doses multiplied; the carrier stays."""
        scaled = {name: value * factor for name, value in vars(self).items() if name != "carrier"}
        return replace(self, **scaled)


@dataclass(frozen=True)
class Frame:
    """What the signals are placed by: `inner_ZYX` falls from 1 to 0 before the head's surface, `detail_ZYX` is the head's own
    within it, `region_ZYX` numbers 2K regions from 0 (−1: none)."""

    inner_ZYX: Array
    detail_ZYX: Array
    region_ZYX: np.ndarray


def frame_of(head: Head) -> Frame:
    """The places of a head's signals."""
    inner_ZYX = ndimage.gaussian_filter(ndimage.binary_erosion(head.inside_ZYX, iterations=2).astype(np.float64), 0.7)
    return Frame(inner_ZYX, detail(head.x_ZYX) * inner_ZYX, regions(head))


def regions(head: Head) -> np.ndarray:
    """Thirds of the head's voxels along each axis, without the three that share the middle of y and x: 24 = 2K."""
    coordinate_P3 = np.argwhere(head.inside_ZYX)
    third_P3 = np.stack([np.searchsorted(np.quantile(c, [1 / 3, 2 / 3]), c, side="right") for c in coordinate_P3.T], axis=1)
    cell_P = third_P3 @ np.array([9, 3, 1])
    number = np.full(27, -1)
    number[[cell for cell in range(27) if cell % 9 != 4]] = np.arange(2 * K)
    region_ZYX = np.full(head.inside_ZYX.shape, -1)
    region_ZYX[head.inside_ZYX] = number[cell_P]
    return region_ZYX


def pattern(correlated: bool) -> tuple[np.ndarray, Array]:
    """The regions of a label, every second one, and the sign of its effect in each: as many up as down."""
    own_K = np.arange(2 * K)[int(correlated) :: 2]
    return own_K, np.where(np.arange(K) % 4 < 2, 1.0, -1.0) * np.where(np.arange(K) % 2, 1.0, -1.0)


def log_energies(labels: dict[str, int], doses: Doses, rng: np.random.Generator) -> Array:
    """Log energy of all 2K regions. The classes differ along `pattern` by as many standard deviations in both labels.

    Decorrelated: each region has noise of its own, and each tells little, ±dose/(2√K) standard deviations. Correlated: one
    noise is shared along the pattern, so each region tells all.
    """
    energy = np.zeros(2 * K)
    noise_K, shared = rng.standard_normal(K), rng.standard_normal()
    for name, noise in (("regional", noise_K), ("regional_correlated", shared)):
        own_K, sign_K = pattern(name == "regional_correlated")
        sign = 2 * labels[name] - 1
        if name == "regional":
            energy[own_K] = SPREAD * (sign_K * sign * doses.regional / (2 * np.sqrt(K)) + noise)
        else:
            energy[own_K] = SPREAD * sign_K * (sign * doses.regional_correlated / 2 + noise)
    return energy


def carried(frame: Frame, log_energy: Array, std: float, rng: np.random.Generator) -> Array:
    """Random-phase detail whose energy differs between regions and whose energy in all is fixed."""
    amplitude = np.append(np.exp(log_energy / 2), 1.0)  # the last is region −1
    amplitude_ZYX = ndimage.gaussian_filter(amplitude[frame.region_ZYX], 1.0) * frame.inner_ZYX
    return scaled(noise(above_half(size_of(amplitude_ZYX)), rng) * amplitude_ZYX, frame, std)


def texture(frame: Frame, fine: int, std: float, rng: np.random.Generator) -> Array:
    """Random-phase texture, coarse or fine, both above what half the resolution can hold."""
    size = size_of(frame.inner_ZYX)
    band_ZYX = above_half(size) * ((radius(size) > SPLIT) == bool(fine))
    return scaled(noise(band_ZYX, rng) * frame.inner_ZYX, frame, std)


def sharpened(frame: Frame, locked: int, dose: float, rng: np.random.Generator) -> Array:
    """What is added to a head: its own detail, or noise with that detail's spectrum and local energy and of no phase in common.

    The head's detail d becomes (1 + a)·d or d + noise of energy ((1 + a)² − 1)·|d|²: equal energies.
    """
    if locked:
        return dose * frame.detail_ZYX
    size = size_of(frame.detail_ZYX)
    envelope_ZYX = np.sqrt(ndimage.gaussian_filter(frame.detail_ZYX**2, 1.5))
    white_ZYX = noise(np.sqrt(radial_power(frame.detail_ZYX)[bins(size)]) * above_half(size), rng)
    scrambled_ZYX = detail(white_ZYX * envelope_ZYX * frame.inner_ZYX)
    energy = ((1 + dose) ** 2 - 1) * np.sum(frame.detail_ZYX**2) / np.sum(scrambled_ZYX**2)
    return np.sqrt(energy) * scrambled_ZYX


def shrunk(head: Head, label: int, dose: float) -> Head:
    """Tissue around the ventricles gives way (1) or closes in (0): both are interpolated alike."""
    side = len(head.x_ZYX)
    centre = np.argwhere(head.inside_ZYX).mean(axis=0) + np.array(ATROPHY_AT) * side
    offset_3ZYX = np.indices(head.x_ZYX.shape) - centre[:, None, None, None]
    near_ZYX = np.exp(-np.sum(offset_3ZYX**2, axis=0) / (2 * (ATROPHY_WIDTH * side) ** 2))
    factor_ZYX = 1 - (2 * label - 1) * dose * near_ZYX
    where_3ZYX = centre[:, None, None, None] + offset_3ZYX * factor_ZYX
    return replace(head, x_ZYX=ndimage.map_coordinates(head.x_ZYX, where_3ZYX, order=3, mode="nearest"))


def lesion_place(frame: Frame, rng: np.random.Generator) -> Array:
    """A place well inside the head, (3,)."""
    places_P3 = np.argwhere(ndimage.binary_erosion(frame.inner_ZYX > 0.9, iterations=2))
    return places_P3[rng.integers(len(places_P3))].astype(np.float64)


def blob(frame: Frame, place: Array) -> Array:
    """A soft ball of height 1."""
    offset_3ZYX = np.indices(frame.inner_ZYX.shape) - place[:, None, None, None]
    return np.exp(-np.sum(offset_3ZYX**2, axis=0) / (2 * LESION_WIDTH**2)) * frame.inner_ZYX


def lesion(frame: Frame, present: int, place: Array, dose: float, rng: np.random.Generator) -> Array:
    """A dark ball, or a sham: a texture over the head with the ball's spectrum and energy."""
    ball_ZYX = -blob(frame, place)
    if present:
        return dose * ball_ZYX
    sham_ZYX = noise(np.abs(np.fft.fftn(ball_ZYX)), rng) * frame.inner_ZYX
    return dose * sham_ZYX * np.sqrt(np.sum(ball_ZYX**2) / np.sum(sham_ZYX**2))


def noise(amplitude_ZYX: Array, rng: np.random.Generator) -> Array:
    """Noise with a given amplitude spectrum and random phases; its scale is left open."""
    return filtered(rng.standard_normal(amplitude_ZYX.shape), amplitude_ZYX)


def scaled(x_ZYX: Array, frame: Frame, std: float) -> Array:
    """With a root mean square of `std` over the inner head."""
    return x_ZYX * std / np.sqrt(np.sum(x_ZYX**2) / np.sum(frame.inner_ZYX**2))
