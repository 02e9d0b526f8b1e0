"""The DALI graph against its torch twin and against a float64 reference."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from mri_fm.config import AugmentConfig
from mri_fm.data.params import SampleParams, centre_params, draw_params
from mri_fm.data.pipeline import build_pipeline
from mri_fm.data.source import Status, graph_inputs
from mri_fm.data.twin import Augmented, augment_volume, resample

SIZE = (9, 16, 12)
WINDOW = (100.0, 900.0)
SPACING = (3.0, 0.8, 1.1)
SHAPES = [(20, 26, 22), (6, 30, 25), (25, 7, 30), (30, 25, 7), (11, 11, 12), (1, 5, 4)]

TOLERANCE = 1e-5

Case = tuple[np.ndarray, SampleParams]


def build(
    cases: Sequence[Case],
    *,
    statistics: str = "foreground",
    window: tuple[float, float] = WINDOW,
    device: str = "cpu",
    batch_size: int | None = None,
) -> Any:
    inputs = [graph_inputs(voxels, params, window, SPACING, Status(i, i, ())) for i, (voxels, params) in enumerate(cases)]
    return build_pipeline(
        lambda info: inputs[info.idx_in_epoch],
        device=device,
        device_id=0,
        statistics=statistics,
        batch_size=batch_size or len(cases),
    )


def run_dali(cases: Sequence[Case], *, batch_size: int | None = None, **changes: Any) -> list[Augmented]:
    pipeline = build(cases, batch_size=batch_size, **changes)
    runs = [pipeline.run()[:3] for _ in range(len(cases) // (batch_size or len(cases)))]
    return [_augmented(*rows) for run in runs for rows in zip(*map(_on_cpu, run), strict=True)]


def _on_cpu(volumes: Any) -> Any:
    return volumes.as_cpu()


def _augmented(x: Any, foreground: Any, air: Any) -> Augmented:
    x_DHWC, foreground_DHWC = np.array(x), np.array(foreground)
    return Augmented(torch.from_numpy(x_DHWC[..., 0]), torch.from_numpy(foreground_DHWC[..., 0]).bool(), np.array(air).item())


def run_volumes(cases: Sequence[Case], **changes: Any) -> list[np.ndarray]:
    return [augmented.x_DHW.numpy() for augmented in run_dali(cases, **changes)]


def random_cases() -> list[Case]:
    rng = np.random.default_rng(0)
    volumes = [rng.integers(1, 1000, shape) * (rng.random(shape) < 0.7) for shape in SHAPES for _ in range(4)]
    return [
        (voxels.astype(np.int16), draw_params(voxels.shape, SIZE, AugmentConfig(), seed=2, position=position))
        for position, voxels in enumerate(volumes)
    ]


def test_one_graph_gives_every_size() -> None:
    (voxels, _), sizes = random_cases()[0], [(8, 8, 8), (16, 8, 12), (9, 16, 12)]
    for position in range(6):
        drawn = [draw_params(voxels.shape, size, AugmentConfig(), seed=3, position=position) for size in sizes]
        cases = [(voxels, params) for params in drawn]
        for augmented, params, size in zip(run_dali(cases), drawn, sizes, strict=True):
            assert params.size == augmented.x_DHW.shape == size
            twin = augment_volume(voxels, params, WINDOW, size)
            assert (augmented.x_DHW - twin.x_DHW).abs().max() < TOLERANCE


@pytest.mark.parametrize("statistics", ["foreground", "volume"])
def test_dali_equals_the_torch_twin(statistics: str) -> None:
    cases = random_cases()
    assert {params.depth_axis for _, params in cases} == {0, 1, 2}
    assert {params.flip_x for _, params in cases} == {True, False}
    for augmented, (voxels, params) in zip(run_dali(cases, statistics=statistics), cases, strict=True):
        assert augmented.x_DHW.shape == SIZE
        twin = augment_volume(voxels, params, WINDOW, SIZE, statistics)
        assert (augmented.x_DHW - twin.x_DHW).abs().max() < TOLERANCE
        assert augmented.foreground_DHW.equal(twin.foreground_DHW)
        assert augmented.air == pytest.approx(twin.air, abs=TOLERANCE)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("statistics", ["foreground", "volume"])
def test_the_gpu_graph_equals_the_cpu_graph(statistics: str) -> None:
    cases = random_cases()
    on_cpu, on_gpu = (run_volumes(cases, statistics=statistics, device=device) for device in ("cpu", "gpu"))
    assert max(np.abs(a - b).max() for a, b in zip(on_cpu, on_gpu, strict=True)) < 1e-3


def test_evaluation_equals_the_torch_twin() -> None:
    cases = [(voxels, centre_params(voxels.shape, SIZE)) for voxels, _ in random_cases()]
    for x, (voxels, params) in zip(run_volumes(cases), cases, strict=True):
        assert np.abs(x - augment_volume(voxels, params, WINDOW, SIZE).x_DHW.numpy()).max() < 1e-4


def test_resample_reads_a_linear_field_where_geometry_says() -> None:
    """Linear interpolation reproduces a linear field, so the values are the source coordinates themselves."""
    shape = (30, 40, 50)
    z, y, x = np.meshgrid(*[np.arange(n, dtype=np.float32) for n in shape], indexing="ij")
    params = dataclasses.replace(draw_params(shape, SIZE, AugmentConfig(), seed=0, position=0), flip_x=True)
    for axis, field in enumerate((z, y, x)):
        begin, end = params.start[axis], params.start[axis] + params.extent[axis]
        if axis == 2:
            begin, end = end, begin
        count = params.output[axis]
        expected = begin + (np.arange(count) + 0.5) * (end - begin) / count - 0.5
        line = resample(torch.from_numpy(field), params).movedim(axis, 0)[:, 0, 0].numpy()
        assert line == pytest.approx(expected.clip(0, shape[axis] - 1), abs=1e-4)


@pytest.mark.parametrize("flip_x", [False, True])
@pytest.mark.parametrize("depth_axis", [0, 1, 2])
def test_the_spacing_is_the_distance_between_voxels_of_the_input(depth_axis: int, flip_x: bool) -> None:
    """Measured on volumes whose values are the millimetres along one source axis each."""
    shape = (30, 32, 34)
    draws = (draw_params(shape, SIZE, AugmentConfig(), seed=0, position=position) for position in range(100))
    drawn = next(params for params in draws if params.depth_axis == depth_axis)
    params = dataclasses.replace(drawn, flip_x=flip_x)
    order = [depth_axis, *(axis for axis in range(3) if axis != depth_axis)]
    for output_axis, source_axis in enumerate(order):
        millimetres = torch.arange(shape[source_axis]) * SPACING[source_axis]
        field = millimetres.view([-1 if axis == source_axis else 1 for axis in range(3)]).expand(shape)
        steps = resample(field, params).movedim(depth_axis, 0).diff(dim=output_axis).abs()
        middle = steps.narrow(output_axis, 2, steps.shape[output_axis] - 4)  # at the border the volume may end
        assert middle.numpy() == pytest.approx(params.input_spacing(SPACING)[output_axis], rel=1e-4)


def test_the_graph_hands_the_spacing_on() -> None:
    cases = random_cases()
    spacing = build(cases).run()[4].as_array()
    assert spacing == pytest.approx(np.stack([params.input_spacing(SPACING) for _, params in cases]))


@pytest.mark.parametrize("depth_axis", [0, 1, 2])
def test_a_flip_hits_anatomical_left_right_in_every_orientation(depth_axis: int) -> None:
    shape = (24, 24, 24)
    size = (12, 12, 12)
    voxels = np.broadcast_to(np.arange(1, 25, dtype=np.int16), shape).copy()  # grows from left to right
    geometry = AugmentConfig(flip=0, gamma=0, bias=0)
    draws = (draw_params(shape, size, geometry, seed=0, position=position) for position in range(100))
    params = next(params for params in draws if params.depth_axis == depth_axis)
    pair = [(voxels, params), (voxels, dataclasses.replace(params, flip_x=True))]
    plain, flipped = run_volumes(pair, window=(1, 24))
    x_axis = {0: 2, 1: 2, 2: 0}[depth_axis]
    others = [axis for axis in range(3) if axis != x_axis]
    assert (np.diff(plain.mean(axis=tuple(others))) > 0).all()
    assert np.abs(np.flip(plain, x_axis) - flipped).max() < 1e-5
    for axis in others:
        assert np.abs(np.diff(plain, axis=axis)).max() < 1e-5


@pytest.mark.parametrize("depth_axis", [0, 1, 2])
def test_the_depth_axis_comes_first_and_the_others_keep_their_order(depth_axis: int) -> None:
    shape = [20, 20, 20]
    shape[depth_axis] = 8
    fields = [
        np.broadcast_to(np.expand_dims(np.arange(1, shape[a] + 1), [b for b in range(3) if b != a]), shape) for a in range(3)
    ]
    params = centre_params(shape, SIZE)
    assert params.depth_axis == depth_axis
    order = [depth_axis, *(axis for axis in range(3) if axis != depth_axis)]
    for field, output_axis in zip((fields[a] for a in order), range(3), strict=True):
        (x,) = run_volumes([(field.astype(np.int16, order="C"), params)], window=(1, 20))
        steps = np.diff(x, axis=output_axis)
        assert (steps >= -1e-6).all()
        assert (steps.sum(axis=output_axis) > 1).all()


@pytest.mark.parametrize("statistics", ["foreground", "volume"])
@pytest.mark.parametrize("value", [0, 1, 500, 32767])
def test_empty_and_constant_volumes_give_zeros(value: int, statistics: str) -> None:
    voxels = np.full((12, 12, 12), value, dtype=np.int16)
    params = draw_params(voxels.shape, SIZE, AugmentConfig(), seed=0, position=0)
    (x,) = run_volumes([(voxels, params)], statistics=statistics, window=(value, value))
    assert (x == 0).all()
    assert (augment_volume(voxels, params, (value, value), SIZE, statistics).x_DHW == 0).all()


def reference_z_score(volume: np.ndarray, window: tuple[float, float], statistics: str) -> np.ndarray:
    scaled = np.clip((volume.astype(np.float64) - window[0]) / (window[1] - window[0]), 0, 1)
    values = scaled if statistics == "volume" else scaled[volume > 0]
    return (scaled - values.mean()) / values.std()


@pytest.mark.parametrize("statistics", ["foreground", "volume"])
def test_intensities_match_a_float64_reference(statistics: str) -> None:
    rng = np.random.default_rng(1)
    shape = (16, 16, 16)
    voxels = (rng.integers(1, 1000, shape) * (rng.random(shape) < 0.5)).astype(np.int16)
    params = centre_params(shape, shape)  # the same grid: the resize changes nothing
    (x,) = run_volumes([(voxels, params)], statistics=statistics)
    assert np.abs(x - reference_z_score(voxels, WINDOW, statistics)).max() < 1e-4
    background = x[voxels == 0]
    assert np.ptp(background) == 0
    assert background[0] == x.min()


def test_large_volumes_lose_no_precision() -> None:
    shape = (96, 96, 96)
    voxels = np.random.default_rng(1).integers(1, 1000, shape).astype(np.int16)
    (x,) = run_volumes([(voxels, centre_params(shape, shape))])
    assert np.abs(x - reference_z_score(voxels, WINDOW, "foreground")).max() < 1e-4


def test_gamma_and_bias_change_intensities_and_keep_the_background() -> None:
    rng = np.random.default_rng(3)
    shape = (16, 16, 16)
    voxels = (rng.integers(1, 1000, shape) * (rng.random(shape) < 0.5)).astype(np.int16)
    plain = centre_params(shape, shape)
    bias = rng.normal(0, 0.3, (4, 4, 4)).astype(np.float32)
    changed = [dataclasses.replace(plain, gamma=1.3), dataclasses.replace(plain, bias=bias)]
    x, gamma, biased = run_volumes([(voxels, plain), *[(voxels, params) for params in changed]])
    scaled = np.clip((voxels.astype(np.float64) - WINDOW[0]) / (WINDOW[1] - WINDOW[0]), 0, 1) ** 1.3
    inside = scaled[voxels > 0]
    assert np.abs(gamma - (scaled - inside.mean()) / inside.std()).max() < 1e-4
    for other in (gamma, biased):
        assert np.abs(other - x).max() > 0.05
        assert np.ptp(other[voxels == 0]) == 0
