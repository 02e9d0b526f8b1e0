import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mri_fm.config import AugmentConfig
from mri_fm.data.params import SampleParams, centre_params, draw_params
from mri_fm.errors import UserError

SIZE = (8, 16, 24)
shapes = st.tuples(*[st.integers(1, 300)] * 3)


def assert_square_crop_inside(params: SampleParams, shape: tuple[int, int, int]) -> None:
    in_plane = [axis for axis in range(3) if axis != params.depth_axis]
    assert params.start[params.depth_axis] == 0
    assert params.extent[params.depth_axis] == shape[params.depth_axis]
    assert {params.extent[axis] for axis in in_plane} == {min(shape[axis] for axis in in_plane)}
    assert all(s >= 0 and s + e <= n for s, e, n in zip(params.start, params.extent, shape, strict=True))
    assert params.output[params.depth_axis] == SIZE[0]
    assert [params.output[axis] for axis in in_plane] == list(SIZE[1:])


@given(shapes, st.integers(0, 2**62), st.integers(0, 2**40))
def test_drawn_parameters_keep_their_ranges(shape: tuple[int, int, int], seed: int, position: int) -> None:
    augment = AugmentConfig(rotation=10)
    params = draw_params(shape, SIZE, augment, seed=seed, position=position)
    assert_square_crop_inside(params, shape)
    if max(shape) / min(shape) >= 1.4:
        assert shape[params.depth_axis] == min(shape)
    assert abs(np.log(params.gamma)) <= augment.gamma
    assert 0 <= params.noise <= augment.noise
    assert 0.9 <= params.scale <= 1.1
    assert abs(params.rotation) <= np.radians(10)
    assert 0 <= params.blur <= augment.blur
    assert params.bias.shape == (4, 4, 4)
    assert params.bias.dtype == np.float32


@given(shapes)
def test_evaluation_takes_the_centre_and_augments_nothing(shape: tuple[int, int, int]) -> None:
    params = centre_params(shape, SIZE)
    assert_square_crop_inside(params, shape)
    assert params.depth_axis == (0 if max(shape) / min(shape) < 1.4 else int(np.argmin(shape)))
    rests = [n - s - e for s, e, n in zip(params.start, params.extent, shape, strict=True)]
    assert all(abs(rest - start) <= 1 for rest, start in zip(rests, params.start, strict=True))
    assert (params.flip_x, params.gamma, params.noise, params.bias.any()) == (False, 1.0, 0.0, False)
    assert (params.scale, params.rotation, params.blur) == (1, 0, 0)


@pytest.mark.parametrize(
    ("shape", "spacing", "by_spacing", "by_shape"),
    [
        ((190, 230, 150), (1, 1, 1), 0, 2),  # a head at 1 mm, long in y: sagittal by its shape
        ((150, 180, 140), (1, 1, 1), 0, 0),
        ((24, 230, 200), (5, 0.9, 0.9), 0, 0),  # thick slices: axial, coronal, sagittal
        ((220, 30, 200), (0.9, 6, 0.9), 1, 1),
        ((220, 240, 160), (0.9, 0.9, 1.2), 0, 2),  # 1.33 is no thick slice
    ],
)
def test_evaluation_finds_thick_slices_by_millimetres_or_by_shape(
    shape: tuple[int, int, int], spacing: tuple[float, float, float], by_spacing: int, by_shape: int
) -> None:
    axes = [centre_params(shape, SIZE, spacing=spacing, plane=plane).depth_axis for plane in ("spacing", "shape")]
    assert axes == [by_spacing, by_shape]


def test_the_whole_volume_is_shown_if_asked() -> None:
    params = centre_params((20, 30, 40), SIZE, crop="whole")
    assert (params.start, params.extent) == ((0, 0, 0), (20, 30, 40))
    assert params.size == tuple(SIZE)


def draws(augment: AugmentConfig, shape: tuple[int, int, int] = (20, 20, 22)) -> list[SampleParams]:
    return [draw_params(shape, SIZE, augment, seed=1, position=position) for position in range(600)]


def test_distributions_are_uniform_where_they_should_be() -> None:
    params = draws(AugmentConfig(bias=0.2), shape=(20, 20, 22))
    axes = np.bincount([p.depth_axis for p in params], minlength=3) / len(params)
    assert axes == pytest.approx([1 / 3] * 3, abs=0.06)
    assert np.mean([p.flip_x for p in params]) == pytest.approx(0.5, abs=0.06)
    assert np.mean([np.log(p.gamma) for p in params]) == pytest.approx(0, abs=0.01)
    assert np.std([p.bias for p in params]) == pytest.approx(0.2, rel=0.03)
    starts = [p.start[2] for p in params if p.depth_axis == 0]
    assert np.bincount(starts) / len(starts) == pytest.approx([1 / 3] * 3, abs=0.1)


def test_probabilities_say_how_often_a_part_is_drawn() -> None:
    params = draws(AugmentConfig(rotation=10, rotation_probability=0.4, blur=1, blur_probability=0.3))
    assert np.mean([p.rotation != 0 for p in params]) == pytest.approx(0.4, abs=0.06)
    assert np.mean([p.blur > 0 for p in params]) == pytest.approx(0.3, abs=0.06)


def test_a_scale_shows_less_of_the_volume_and_finer_voxels() -> None:
    plain = centre_params((20, 24, 28), SIZE, spacing=(3, 1, 2))
    scaled = dataclasses.replace(plain, scale=1.25)
    assert scaled.input_spacing() == pytest.approx(plain.input_spacing() / 1.25, rel=1e-3)
    (begin, end), (small_begin, small_end) = plain.roi(), scaled.roi()
    assert small_end - small_begin == pytest.approx((end - begin) / 1.25, rel=1e-3)
    assert small_end + small_begin == pytest.approx(end + begin)


def test_blur_is_in_millimetres() -> None:
    params = dataclasses.replace(centre_params((16, 16, 16), (8, 16, 16), spacing=(3, 1, 2)), blur=3)
    assert params.blur_voxels() == pytest.approx([0.5, 3, 1.5])


@pytest.mark.parametrize(("key", "value"), [("flip", 1.5), ("scale", 0.6), ("rotation", 90), ("noise", -1), ("blur", -0.1)])
def test_impossible_ranges_are_named(key: str, value: float) -> None:
    with pytest.raises(UserError, match=rf"data\.augment\.{key}={value} must be between 0 and"):
        AugmentConfig(**{key: value})


def test_parameters_are_a_function_of_seed_and_position() -> None:
    def plain(seed: int, position: int) -> dict:
        params = dataclasses.asdict(draw_params((20, 21, 22), SIZE, AugmentConfig(), seed=seed, position=position))
        return params | {"bias": params["bias"].tolist()}

    assert plain(3, 5) == plain(3, 5)
    assert plain(3, 5)["bias"] != plain(3, 6)["bias"]
    assert plain(3, 5)["bias"] != plain(4, 5)["bias"]


def test_switching_a_part_off_leaves_the_others_as_they_were() -> None:
    off = AugmentConfig(flip=0, scale=0, rotation=0, gamma=0, blur=0, noise=0)
    everything, some = draws(AugmentConfig(rotation=10)), draws(off)
    assert not any(p.flip_x or p.noise or p.rotation or p.blur or p.gamma != 1 or p.scale != 1 for p in some)
    assert all(a.depth_axis == b.depth_axis and (a.bias == b.bias).all() for a, b in zip(everything, some, strict=True))
    assert {p.depth_axis for p in draws(AugmentConfig(orientation=False))} == {0}


def test_a_flip_swaps_the_ends_of_x_alone() -> None:
    params = centre_params((10, 12, 14), SIZE)
    begin, end = params.roi()
    flipped_begin, flipped_end = dataclasses.replace(params, flip_x=True).roi()
    assert (flipped_begin == [begin[0], begin[1], end[2]]).all()
    assert (flipped_end == [end[0], end[1], begin[2]]).all()
