"""The DALI graph against its torch twin and against a float64 reference."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage

from mri_fm.config import AugmentConfig
from mri_fm.data.params import SampleParams, centre_params, draw_params
from mri_fm.data.pipeline import _graph, build_pipeline
from mri_fm.data.source import Status, graph_inputs
from mri_fm.data.twin import Augmented, augment_volume, blur, resample

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
    inputs = [graph_inputs(voxels, params, window, Status(i, i, ())) for i, (voxels, params) in enumerate(cases)]
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


OFF = {"flip": 0, "scale": 0, "rotation": 0, "gamma": 0, "bias": 0, "blur": 0, "noise": 0}
OPTIONS: dict[str, dict[str, float]] = {
    "orientation": {},
    "flip": {"flip": 1},
    "scale": {"scale": 0.2},
    "rotation": {"rotation": 20},
    "gamma": {"gamma": 0.3},
    "bias": {"bias": 0.3},
    "blur": {"blur": 2, "blur_probability": 1},
    "noise": {"noise": 0.1},
}
EVERYTHING = {"flip": 0.5, "scale": 0.2, "rotation": 20, "gamma": 0.3, "bias": 0.3, "blur": 2, "blur_probability": 0.7}


def random_cases(options: dict[str, float] | None = None) -> list[Case]:
    """Textured blobs on background; the options alone, or everything."""
    rng = np.random.default_rng(0)
    augment = AugmentConfig(**(OFF | (EVERYTHING if options is None else options)))
    cases = []
    for position, shape in enumerate(shape for shape in SHAPES for _ in range(4)):
        smooth = ndimage.gaussian_filter(rng.normal(size=shape), 1.0)
        texture = (500 + 300 * smooth / smooth.std() + rng.normal(size=shape) * 30).clip(60, 1000)
        voxels = np.where(smooth > np.quantile(smooth, 0.3), texture, 0)
        params = draw_params(shape, SIZE, augment, seed=2, position=position, spacing=SPACING)
        cases.append((voxels.astype(np.int16), params))
    return cases


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
@pytest.mark.parametrize("option", [*OPTIONS, None])
def test_dali_equals_the_torch_twin(option: str | None, statistics: str) -> None:
    cases = random_cases(OPTIONS[option] if option else None)
    assert {params.depth_axis for _, params in cases} == {0, 1, 2}
    for augmented, (voxels, params) in zip(run_dali(cases, statistics=statistics), cases, strict=True):
        assert augmented.x_DHW.shape == SIZE
        twin = augment_volume(voxels, params, WINDOW, SIZE, statistics)
        assert (augmented.x_DHW - twin.x_DHW).abs().max() < TOLERANCE
        assert augmented.foreground_DHW.equal(twin.foreground_DHW)
        assert augmented.air == pytest.approx(twin.air, abs=TOLERANCE)


@pytest.mark.parametrize("option", ["gamma", "bias", "blur", "noise"])
def test_no_change_of_intensity_moves_the_foreground(option: str) -> None:
    """It is where the geometry puts the stored mask: a voxel that none of the stored foreground reaches is background."""
    plain, changed = run_dali(random_cases({})), run_dali(random_cases(OPTIONS[option]))
    assert all(a.foreground_DHW.equal(b.foreground_DHW) for a, b in zip(plain, changed, strict=True))
    for augmented, (voxels, params) in zip(plain, random_cases({}), strict=True):
        share = resample(torch.from_numpy((voxels != 0).astype(np.float32)), params).movedim(params.depth_axis, 0)
        assert augmented.foreground_DHW[share > 0.01].all()
        assert not augmented.foreground_DHW[share == 0].any()


@pytest.mark.parametrize("batch_size", [1, 2, 6])
def test_how_samples_are_batched_changes_no_bit(batch_size: int) -> None:
    whole, split = run_dali(random_cases()), run_dali(random_cases(), batch_size=batch_size)
    for a, b in zip(whole, split, strict=True):
        assert a.x_DHW.equal(b.x_DHW)
        assert a.foreground_DHW.equal(b.foreground_DHW)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("statistics", ["foreground", "volume"])
def test_the_gpu_graph_equals_the_cpu_graph(statistics: str) -> None:
    cases = random_cases()
    on_cpu, on_gpu = (run_volumes(cases, statistics=statistics, device=device) for device in ("cpu", "gpu"))
    assert max(np.abs(a - b).max() for a, b in zip(on_cpu, on_gpu, strict=True)) < 1e-3


@pytest.mark.parametrize(("device", "inflate"), [("cpu", False), ("gpu", False), ("gpu", True)])
def test_the_graph_of_either_device_can_be_defined_anywhere(device: str, inflate: bool) -> None:
    graph = _graph(lambda info: info, device, "foreground", False, None, inflate, batch_size=2, num_threads=1, device_id=None)
    assert graph.serialize()


def test_evaluation_equals_the_torch_twin() -> None:
    cases = [(voxels, centre_params(voxels.shape, SIZE)) for voxels, _ in random_cases()]
    for x, (voxels, params) in zip(run_volumes(cases), cases, strict=True):
        assert np.abs(x - augment_volume(voxels, params, WINDOW, SIZE).x_DHW.numpy()).max() < 1e-4


def test_resample_reads_a_linear_field_where_geometry_says() -> None:
    """Linear interpolation reproduces a linear field, so the values are the source coordinates themselves."""
    shape = (30, 40, 50)
    z, y, x = np.meshgrid(*[np.arange(n, dtype=np.float32) for n in shape], indexing="ij")
    drawn = (draw_params(shape, SIZE, AugmentConfig(scale=0.2), seed=0, position=position) for position in range(100))
    params = dataclasses.replace(next(params for params in drawn if params.scale > 1.1), flip_x=True)
    for axis, field in enumerate((z, y, x)):
        centre, half = params.start[axis] + params.extent[axis] / 2, params.extent[axis] / 2 / params.scale
        begin, end = (centre + half, centre - half) if axis == 2 else (centre - half, centre + half)
        count = params.output[axis]
        expected = begin + (np.arange(count) + 0.5) * (end - begin) / count - 0.5
        line = resample(torch.from_numpy(field), params).movedim(axis, 0)[:, 0, 0].numpy()
        assert line == pytest.approx(expected.clip(0, shape[axis] - 1), abs=2e-3)


@pytest.mark.parametrize("flip_x", [False, True])
@pytest.mark.parametrize("depth_axis", [0, 1, 2])
def test_the_spacing_is_the_distance_between_voxels_of_the_input(depth_axis: int, flip_x: bool) -> None:
    """Measured on volumes whose values are the millimetres along one source axis each."""
    shape = (30, 32, 34)
    draws = (draw_params(shape, SIZE, AugmentConfig(), seed=0, position=p, spacing=SPACING) for p in range(100))
    drawn = next(params for params in draws if params.depth_axis == depth_axis)
    params = dataclasses.replace(drawn, flip_x=flip_x)
    order = [depth_axis, *(axis for axis in range(3) if axis != depth_axis)]
    for output_axis, source_axis in enumerate(order):
        millimetres = torch.arange(shape[source_axis]) * SPACING[source_axis]
        field = millimetres.view([-1 if axis == source_axis else 1 for axis in range(3)]).expand(shape)
        steps = resample(field, params).movedim(depth_axis, 0).diff(dim=output_axis).abs()
        middle = steps.narrow(output_axis, 2, steps.shape[output_axis] - 4)  # at the border the volume may end
        assert middle.numpy() == pytest.approx(params.input_spacing()[output_axis], rel=1e-4)


def test_the_graph_hands_the_spacing_on() -> None:
    cases = random_cases()
    spacing = build(cases).run()[4].as_array()
    assert spacing == pytest.approx(np.stack([params.input_spacing() for _, params in cases]))


@pytest.mark.parametrize("shape", [(12, 230, 240), (230, 12, 240), (230, 240, 12)])
def test_a_rotated_volume_of_many_rows_is_read_where_geometry_says(shape: tuple[int, int, int]) -> None:
    voxels = np.random.default_rng(0).integers(1, 1000, shape).astype(np.int16)
    drawn = (draw_params(shape, SIZE, AugmentConfig(rotation=20), seed=0, position=position) for position in range(100))
    params = next(params for params in drawn if params.rotation)
    (augmented,) = run_dali([(voxels, params)])
    assert (augmented.x_DHW - augment_volume(voxels, params, WINDOW, SIZE).x_DHW).abs().max() < TOLERANCE


def test_what_lies_beyond_the_volume_is_background() -> None:
    voxels = np.full((20, 20, 20), 500, np.int16)
    params = dataclasses.replace(centre_params(voxels.shape, voxels.shape), scale=0.8)  # 25 voxels are shown as 20
    (augmented,) = run_dali([(voxels, params)], statistics="volume")
    inside = torch.zeros(20, 20, 20, dtype=torch.bool)
    inside[2:18, 2:18, 2:18] = True  # centres at 1.25 (i + 1/2) - 2.5
    assert augmented.foreground_DHW.equal(inside)
    assert augmented.x_DHW[~inside].numpy() == pytest.approx(augmented.air, abs=1e-6)
    (turned,) = run_dali([(voxels, dataclasses.replace(params, scale=1.0, rotation=np.radians(45)))], statistics="volume")
    assert not turned.foreground_DHW[:, 0, 0].any()
    assert turned.foreground_DHW[:, 10, 10].all()


@pytest.mark.parametrize("depth_axis", [0, 1, 2])
def test_a_rotation_is_rigid_in_millimetres_about_the_middle_of_the_crop(depth_axis: int) -> None:
    """Against a trilinear warp in float64 whose coordinates are written out in millimetres."""
    shape, spacing, angle = (22, 24, 26), np.array([1.5, 0.8, 1.1]), np.radians(25)
    voxels = np.zeros(shape, np.int16)
    inner = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(16, 18, 20)), 1.5)
    voxels[3:-3, 3:-3, 3:-3] = 1000 + 300 * inner / inner.std()
    drawn = (draw_params(shape, SIZE, AugmentConfig(flip=1), seed=0, position=p, spacing=spacing) for p in range(100))
    params = next(params for params in drawn if params.depth_axis == depth_axis)
    params = dataclasses.replace(params, rotation=angle, scale=0.95)
    begin, end = params.roi()
    steps = [(end[i] - begin[i]) / params.output[i] * (np.arange(params.output[i]) + 0.5) for i in range(3)]
    offset = (np.stack(np.meshgrid(*steps, indexing="ij"), -1) - (end - begin) / 2) * spacing
    a, b = (axis for axis in range(3) if axis != depth_axis)
    turned = offset.copy()
    turned[..., a] = np.cos(angle) * offset[..., a] - np.sin(angle) * offset[..., b]
    turned[..., b] = np.sin(angle) * offset[..., a] + np.cos(angle) * offset[..., b]
    source = np.moveaxis(turned / spacing + (begin + end) / 2 - 0.5, -1, 0)
    expected = ndimage.map_coordinates(voxels.astype(np.float64), source, order=1, mode="grid-constant")
    assert (
        np.abs(resample(torch.from_numpy(voxels.astype(np.float32)), params).numpy() - expected).max() < 3
    )  # a thousandth of a voxel at an edge of 1000


@pytest.mark.parametrize("depth_axis", [0, 1, 2])
def test_a_flip_under_rotation_and_scale_is_the_mirrored_anatomy_turned_the_other_way(depth_axis: int) -> None:
    shape = (24, 24, 24)
    voxels = torch.from_numpy(np.random.default_rng(0).random(shape, dtype=np.float32))
    drawn = (draw_params(shape, SIZE, AugmentConfig(flip=0), seed=0, position=p, spacing=SPACING) for p in range(100))
    params = next(params for params in drawn if params.depth_axis == depth_axis)
    params = dataclasses.replace(params, rotation=0.2)
    mirrored = dataclasses.replace(params, flip_x=True, rotation=0.2 if depth_axis == 2 else -0.2)
    assert (resample(voxels, params) - resample(voxels.flip(2), mirrored)).abs().max() < 1e-3


def test_the_blur_is_a_gaussian_of_so_many_millimetres() -> None:
    params = dataclasses.replace(centre_params((20, 22, 24), (20, 22, 24), spacing=SPACING), blur=1.5)
    volume = np.random.default_rng(0).random((20, 22, 22))
    expected = volume
    for axis, deviation in enumerate(1.5 / params.input_spacing().astype(float)):
        radius = int(np.ceil(3 * deviation))
        expected = ndimage.gaussian_filter1d(expected, deviation, axis, mode="mirror", radius=radius)
    assert np.abs(blur(torch.from_numpy(volume.astype(np.float32)), params).numpy() - expected).max() < 1e-6


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
