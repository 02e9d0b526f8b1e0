"""int16 intensities against float64."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mri_fm.volume.intensity import quantiles, quantise
from mri_fm.volume.refusal import Refusal


@given(arrays(np.float64, (3, 4, 5), elements=st.floats(-1e12, 1e12)))
def test_within_half_a_step_and_never_zero(array: np.ndarray) -> None:
    if array.max() - array.min() < 1e-300:
        return
    quantised, scale, offset = quantise(array)
    assert quantised.dtype == np.int16
    assert quantised.min() >= 1
    assert np.abs(quantised.astype(np.float64) * scale + offset - array).max() <= 0.5001 * scale + 1e-9 * np.abs(array).max()


@given(arrays(np.int16, (3, 4, 5)), st.sampled_from(["int16", "int32", "float32", "float64"]))
def test_whole_numbers_of_small_range_are_exact_whatever_their_type(array: np.ndarray, dtype: str) -> None:
    array = array // 4  # range below 32767
    if array.min() == array.max():
        return
    quantised, scale, offset = quantise(array.astype(dtype))
    assert (scale, offset) == (1.0, array.min() - 1)
    assert np.array_equal(quantised + int(offset), array)


def test_large_float32_numbers_are_exact_too() -> None:
    array = np.float32(2**25) + 4 * np.arange(27, dtype=np.float32).reshape(3, 3, 3)
    quantised, scale, offset = quantise(array)
    assert np.array_equal(quantised * scale + offset, array.astype(np.float64))
    assert quantised.min() == 1


def test_commutes_with_flips_and_permutations() -> None:
    array = np.random.default_rng(0).normal(size=(5, 6, 7))
    quantised, *rest = quantise(array)
    other, *same = quantise(array.transpose(2, 0, 1)[::-1])
    assert np.array_equal(other, quantised.transpose(2, 0, 1)[::-1])
    assert rest == same
    assert quantised.max() == 32767


@pytest.mark.parametrize(("value", "code"), [(np.nan, "non_finite"), (np.inf, "non_finite"), (0.0, "constant")])
def test_refusals(value: float, code: str) -> None:
    array = np.zeros((3, 3, 3))
    array[1, 1, 1] = value
    with pytest.raises(Refusal) as refusal:
        quantise(array)
    assert refusal.value.code == code


@given(arrays(np.int16, st.integers(1, 300), elements=st.integers(0, 32767)))
def test_percentiles_equal_numpys(values: np.ndarray) -> None:
    assert np.allclose(quantiles(values, (0.01, 0.99)), np.percentile(values, [1, 99]), rtol=1e-12, atol=1e-9)


def test_integers_that_a_slope_was_divided_out_of_come_back() -> None:
    array = np.random.default_rng(0).integers(0, 3000, (20, 20, 20))
    quantised, scale, offset = quantise((array * 10).astype(np.int16) * np.float32(0.1))
    assert (scale, offset) == (1.0, -1.0)
    assert np.array_equal(quantised - 1, array)
    fine = array * 1e-7  # all near the integer 0
    assert quantise(fine)[1] != 1.0
    thirds = array + np.float32(1 / 3)
    assert quantise(thirds)[1] != 1.0
