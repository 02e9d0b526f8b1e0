"""Artefacts of k-space against explicit complex transforms in float64, line by line."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage

from mri_fm.config import ArtefactConfig
from mri_fm.data.artefacts import Anisotropy, Artefacts, Ghosting, Motion, Spike, draw_artefacts
from mri_fm.data.kspace import add_artefacts, add_ghosts, add_spike, coarsen, move_head, rigid

SHAPES = [(8, 12, 10), (9, 7, 12), (1, 6, 5)]
SPACING = (3.0, 0.8, 1.1)
AXES = [0, 1, 2]


def volume(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random(shape, dtype=np.float32))


def lines(x: torch.Tensor, axis: int, change: Callable[[int, np.ndarray], np.ndarray]) -> np.ndarray:
    """Change each line of k-space along an axis, given its frequency −⌊n/2⌋ …, and reconstruct; float64."""
    spectrum = np.moveaxis(np.fft.fftn(x.numpy().astype(np.float64)), axis, 0)
    count = len(spectrum)
    for place in range(count):
        frequency = (place + count // 2) % count - count // 2
        spectrum[place] = change(frequency, spectrum[place])
    return np.fft.ifftn(np.moveaxis(spectrum, 0, axis)).real


def assert_close(x: torch.Tensor, expected: np.ndarray) -> None:
    assert x.dtype == torch.float32
    assert np.abs(x.numpy() - expected).max() < 2e-6


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("count", [2, 3, 4])
def test_ghosting_weakens_every_nth_line(shape: tuple[int, ...], axis: int, count: int) -> None:
    x = volume(shape)
    y = add_ghosts(x, Ghosting(axis, count, 0.6))
    assert_close(y, lines(x, axis, lambda k, line: line * 0.4 if k % count == 0 and k != 0 else line))
    assert y.sum(axis).numpy() == pytest.approx(x.sum(axis).numpy(), abs=1e-5)


def test_ghosts_are_replicas_at_parts_of_the_field_of_view() -> None:
    x = volume((4, 12, 4))
    y = add_ghosts(x, Ghosting(1, 3, 0.6))
    replicas = sum(x.roll(4 * j, 1) for j in range(3)) * 0.6 / 3
    assert (y - (x - replicas + 0.6 * x.mean(1, keepdim=True))).abs().max() < 1e-6


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("factor", [1.0, 1.7, 3.0])
def test_anisotropy_reads_the_middle_of_k_space_alone(shape: tuple[int, ...], axis: int, factor: float) -> None:
    x = volume(shape)
    y = coarsen(x, Anisotropy(axis, factor))
    assert_close(y, lines(x, axis, lambda k, line: line * (k == 0 or abs(k) < shape[axis] / (2 * factor))))
    assert y.square().sum() <= x.square().sum() * (1 + 1e-6)
    assert (coarsen(y, Anisotropy(axis, factor)) - y).abs().max() < 1e-6
    assert y.sum(axis).numpy() == pytest.approx(x.sum(axis).numpy(), abs=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_spike_is_one_point_of_k_space_and_its_mirror(shape: tuple[int, ...]) -> None:
    spike = Spike((0.3, -0.21, 0.4), 0.7, 1.5)
    x = volume(shape)
    spectrum = np.fft.fftn(x.numpy().astype(np.float64))
    point = tuple(round(f * n) % n for f, n in zip(spike.frequencies, shape, strict=True))
    mirror = tuple(-k % n for k, n in zip(point, shape, strict=True))
    value = 1.5 * spectrum[0, 0, 0].real / 2 * np.exp(0.7j)
    spectrum[point] += value
    spectrum[mirror] += value.conj()
    assert_close(add_spike(x, spike), np.fft.ifftn(spectrum).real)
    assert np.abs(np.fft.ifftn(spectrum).imag).max() < 1e-12


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("times", [(0.3,), (0.2, 0.5, 0.51), (0.61, 0.9)])
def test_motion_takes_each_line_from_the_pose_of_its_time(shape: tuple[int, ...], axis: int, times: tuple[float, ...]) -> None:
    rng = np.random.default_rng(1)
    shifts, angles = rng.uniform(-3, 3, (len(times) + 1, 3)), rng.uniform(-0.2, 0.2, (len(times) + 1, 3))
    reference = Motion(axis, times, (), ()).reference
    shifts[reference] = angles[reference] = 0
    motion = Motion(axis, times, tuple(map(tuple, shifts)), tuple(map(tuple, angles)))
    x = volume(shape)
    poses = [rigid(x, shift, turn, SPACING).numpy() for shift, turn in zip(shifts, angles, strict=True)]
    spectra = [np.moveaxis(np.fft.fftn(pose.astype(np.float64)), axis, 0) for pose in poses]
    length = shape[axis]

    def line_of_its_pose(k: int, line: np.ndarray) -> np.ndarray:
        pose = sum(time <= (k + length / 2) / length for time in times)
        return spectra[pose][k]

    y = move_head(x, motion, SPACING)
    assert_close(y, lines(x, axis, line_of_its_pose))
    assert y.sum(axis).numpy() == pytest.approx(poses[reference].sum(axis), abs=1e-5)


def test_a_pose_is_rigid_in_millimetres() -> None:
    """Against scipy in float64, with the coordinates of each turn written out."""
    x = torch.zeros(16, 22, 20)
    x[3:-3, 5:-5, 5:-5] = torch.from_numpy(ndimage.gaussian_filter(np.random.default_rng(0).random((10, 12, 10)), 1)).float()
    shift, angles = np.array([2.0, -1.5, 0.7]), np.radians([10, -7, 12])
    grid = np.stack(np.meshgrid(*map(np.arange, x.shape), indexing="ij"), -1)
    z, y, x_ = np.moveaxis((grid + 0.5 - np.array(x.shape) / 2) * SPACING - shift, -1, 0)  # back through the shift, …
    c, s = np.cos(angles), np.sin(angles)
    z, y = c[2] * z + s[2] * y, -s[2] * z + c[2] * y  # … the turn about x, …
    z, x_ = c[1] * z + s[1] * x_, -s[1] * z + c[1] * x_  # … about y, …
    y, x_ = c[0] * y + s[0] * x_, -s[0] * y + c[0] * x_  # … and about z
    source = np.stack([z, y, x_]) / np.reshape(SPACING, (3, 1, 1, 1)) + np.reshape(x.shape, (3, 1, 1, 1)) / 2 - 0.5
    expected = ndimage.map_coordinates(x.numpy().astype(np.float64), source, order=1, mode="grid-constant")
    assert np.abs(rigid(x, shift, angles, SPACING).numpy() - expected).max() < 1e-4


def test_no_artefact_is_no_change() -> None:
    x = volume(SHAPES[0])
    assert not Artefacts()
    assert add_artefacts(x, Artefacts(), SPACING) is x
    still = Motion(1, (0.3,), ((0, 0, 0), (0, 0, 0)), ((0, 0, 0), (0, 0, 0)))
    assert (move_head(x, still, SPACING) - x).abs().max() < 1e-6
    assert (add_ghosts(x, Ghosting(0, 2, 0.0)) - x).abs().max() < 1e-6


ALWAYS = ArtefactConfig(motion=1, ghosting=1, spike=1, anisotropy=1)


def test_everything_together_is_the_one_after_the_other() -> None:
    x, artefacts = volume(SHAPES[0]), draw_artefacts(ALWAYS, seed=1, position=2)
    assert all(vars(artefacts).values())
    steps = coarsen(add_ghosts(move_head(x, artefacts.motion, SPACING), artefacts.ghosting), artefacts.anisotropy)
    assert add_artefacts(x, artefacts, SPACING).equal(add_spike(steps, artefacts.spike))


def test_draws_are_a_function_of_seed_and_position_and_keep_their_ranges() -> None:
    drawn = [draw_artefacts(ALWAYS, seed=1, position=position) for position in range(200)]
    assert drawn[7] == draw_artefacts(ALWAYS, seed=1, position=7)
    assert len(set(drawn)) == 200
    assert drawn[7] != draw_artefacts(ALWAYS, seed=2, position=7)
    for artefacts in drawn:
        assert all(vars(artefacts).values())
        moves = len(artefacts.motion.times)
        assert 1 <= moves <= 3
        assert list(artefacts.motion.times) == sorted(artefacts.motion.times)
        assert np.shape(artefacts.motion.shifts) == np.shape(artefacts.motion.angles) == (moves + 1, 3)
        assert np.abs(artefacts.motion.shifts).max() <= 4
        assert np.abs(artefacts.motion.angles).max() <= np.radians(4)
        assert artefacts.motion.shifts[artefacts.motion.reference] == (0, 0, 0)
        assert artefacts.ghosting.count in (2, 3, 4)
        assert artefacts.ghosting.strength <= 0.8
        assert artefacts.spike.strength <= 1
        assert 1 <= artefacts.anisotropy.factor <= 3
    assert {artefacts.motion.axis for artefacts in drawn if artefacts.motion} == {0, 1, 2}


@pytest.mark.parametrize("name", ["motion", "ghosting", "spike", "anisotropy"])
def test_probabilities_are_independent_and_leave_the_others_as_they_were(name: str) -> None:
    def of(config: dict[str, Any]) -> list[Any]:
        return [getattr(draw_artefacts(ArtefactConfig(**config), seed=3, position=p), name) for p in range(400)]

    always, half = of({"motion": 1, "ghosting": 1, "spike": 1, "anisotropy": 1}), of({name: 0.5})
    assert np.mean([one is not None for one in half]) == pytest.approx(0.5, abs=0.08)
    assert all(one is None or one == other for one, other in zip(half, always, strict=True))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_the_gpu_the_same_and_without_waiting() -> None:
    x, artefacts = volume(SHAPES[0]), draw_artefacts(ALWAYS, seed=1, position=2)
    on_gpu = x.cuda()
    add_artefacts(on_gpu, artefacts, SPACING)  # plans and kernels are made
    torch.cuda.set_sync_debug_mode("error")
    try:
        y = add_artefacts(on_gpu, artefacts, SPACING)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert (y.cpu() - add_artefacts(x, artefacts, SPACING)).abs().max() < 1e-4
