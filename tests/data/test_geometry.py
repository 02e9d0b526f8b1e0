import dataclasses

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mri_fm.config import AugmentConfig
from mri_fm.data.geometry import plan_reading
from mri_fm.data.params import draw_params

shapes = st.tuples(*[st.integers(1, 300)] * 3)
sizes = st.tuples(*[st.integers(1, 200)] * 3)


@settings(deadline=None)
@given(shapes, sizes, st.floats(0.51, 1.49), st.booleans(), st.integers(0, 2**40))
def test_the_resize_makes_the_voxels_that_lie_in_the_volume_and_padding_the_rest(
    shape: tuple[int, int, int], size: tuple[int, int, int], scale: float, flip: bool, position: int
) -> None:
    drawn = draw_params(shape, size, AugmentConfig(), seed=0, position=position)
    params = dataclasses.replace(drawn, scale=scale, flip_x=flip)
    reading, (begin, end) = plan_reading(params, shape), params.roi()
    assert tuple(reading.padded_shape) == params.output
    for axis, count in enumerate(params.output):
        centres = begin[axis] + (np.arange(count) + 0.5) * (float(end[axis]) - float(begin[axis])) / count
        inside = np.flatnonzero((centres >= 0) & (centres <= shape[axis]))
        assert len(inside) == reading.resized_shape[axis]
        assert inside[0] == -reading.anchor[axis]
        step = (float(reading.end[axis]) - float(reading.begin[axis])) / len(inside)
        read = reading.begin[axis] + (np.arange(len(inside)) + 0.5) * step
        assert np.abs(read - centres[inside]).max() < 1e-3
    assert reading.padded == any(reading.resized_shape < params.output)


@given(shapes, st.floats(0.8, 1.2), st.floats(-0.7, 0.7), st.integers(0, 2**40))
@settings(deadline=None)
def test_a_rotated_plane_is_read_whole_and_turned_about_the_middle_of_the_crop(
    shape: tuple[int, int, int], scale: float, angle: float, position: int
) -> None:
    spacing, size = (3.0, 0.8, 1.1), (9, 16, 12)
    drawn = draw_params(shape, size, AugmentConfig(), seed=0, position=position, spacing=spacing)
    params = dataclasses.replace(drawn, scale=scale, rotation=angle or 0.1)
    reading, (begin, end) = plan_reading(params, shape), params.roi()
    a, b = (axis for axis in range(3) if axis != params.depth_axis)
    for axis in (a, b):
        assert (reading.begin[axis], reading.end[axis], reading.resized_shape[axis]) == (0, shape[axis], shape[axis])
    middle_ba = reading.matrix @ [params.output[b] / 2, params.output[a] / 2, 1]
    assert np.abs(middle_ba - ((begin + end) / 2)[[b, a]]).max() < 1e-3
    steps_mm = (
        reading.matrix[::-1, 1::-1] * np.array(spacing)[[a, b], None]
    )  # columns: one voxel of the output along a, along b
    lengths = np.abs((end - begin) / params.output * spacing)[[a, b]]
    tolerance = 2 * max(spacing) * 2.0**-12
    assert np.abs(np.linalg.norm(steps_mm, axis=0) - lengths).max() < tolerance
    assert abs(steps_mm[:, 0] @ steps_mm[:, 1]) < tolerance * (lengths.sum() + tolerance)


@given(shapes, st.floats(0.51, 1.49), st.integers(0, 2**40))
@settings(deadline=None)
def test_the_view_of_a_rotated_volume_is_resized_along_the_depth_alone(
    shape: tuple[int, int, int], scale: float, position: int
) -> None:
    drawn = draw_params(shape, (9, 16, 12), AugmentConfig(), seed=0, position=position)
    params = dataclasses.replace(drawn, scale=scale, rotation=0.1)
    reading, depth = plan_reading(params, shape), params.depth_axis
    frames, rows, columns, channels = map(int, reading.view)
    assert frames * rows * columns * channels == np.prod(shape)
    lengths, strides = (rows, columns), (columns * channels, channels)  # elements from one row or column to the next
    along = strides.index(int(np.prod(shape[depth + 1 :]))) if shape[depth] > 1 else int(depth == 2)
    assert lengths[along] == shape[depth]
    read = (reading.view_begin, reading.view_end, reading.view_shape)
    assert [edge[along] for edge in read] == [edge[depth] for edge in (reading.begin, reading.end, reading.resized_shape)]
    kept = lengths[1 - along]
    assert [edge[1 - along] for edge in read] == [0, kept, kept]
