import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mri_fm import rng
from mri_fm.rng import Stream, generator, hash_bits, normal, uniform

MASK = (1 << 64) - 1
ints = st.integers(-(2**63), 2**63 - 1)
KNOWN_BITS = [[-5283678977431760782, -5814608383710504526], [-6067704771991760597, -592985524659936999]]
KNOWN_NORMAL = [-0.6136533617973328, -0.439004123210907, -1.0990878343582153]
KNOWN_INTEGER = 2772409515092083932


def mix(x: int) -> int:
    """SplitMix64's finaliser on Python integers."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def reference_bits(seed: int, stream: int, position: int, count: int) -> list[int]:
    golden = 0x9E3779B97F4A7C15
    lane = (seed * golden + stream) & MASK
    row = mix((mix((position & MASK) ^ mix(lane)) + lane) & MASK)
    return [mix((row + number * golden) & MASK) for number in range(1, count + 1)]


@given(ints, st.sampled_from(list(Stream)), ints)
def test_bits_match_plain_integer_arithmetic(seed: int, stream: Stream, position: int) -> None:
    bits = hash_bits(seed, stream, torch.tensor([position]), 5)
    assert [value & MASK for value in bits[0].tolist()] == reference_bits(seed, stream, position, 5)


def test_bits_are_the_known_ones() -> None:
    """Runs that were started with these streams must be reproducible by every later version."""
    assert hash_bits(0, Stream.MASK, torch.tensor([0, 1]), 2).tolist() == KNOWN_BITS
    assert normal(0, Stream.NOISE, torch.tensor([0]), 3)[0].tolist() == pytest.approx(KNOWN_NORMAL, rel=1e-5)
    assert generator(0, Stream.AUGMENT, 1).integers(1 << 62) == KNOWN_INTEGER


def test_rows_do_not_depend_on_their_batch() -> None:
    positions = torch.tensor([7, 0, 123456789])
    together = normal(3, Stream.NOISE, positions, 1001)
    for row, position in zip(together, positions, strict=True):
        assert torch.equal(row, normal(3, Stream.NOISE, position[None], 1001)[0])
    assert positions.tolist() == [7, 0, 123456789]


@pytest.mark.parametrize("block", [1, 7, 64])
def test_blocks_do_not_show_in_normal_numbers(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    positions = torch.tensor([7, 11])
    for count in (0, 1, 127, 128):
        whole = normal(3, Stream.NOISE, positions, count)
        with monkeypatch.context() as patch:
            patch.setattr(rng, "_CPU_BLOCK", block)
            assert torch.equal(normal(3, Stream.NOISE, positions, count), whole)


def test_uniform_is_the_high_bits_in_the_unit_interval() -> None:
    positions = torch.arange(4)
    values = uniform(3, Stream.DROP_PATH, positions, 1 << 14)
    bits = hash_bits(3, Stream.DROP_PATH, positions, 1 << 14)
    assert values.dtype == torch.float32
    assert values.min() >= 0
    assert values.max() < 1
    assert values[2, 7].item() == ((bits[2, 7].item() & MASK) >> 40) / 2**24
    assert values.double().mean().item() == pytest.approx(0.5, abs=5 / math.sqrt(12 * values.numel()))


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_shapes(count: int) -> None:
    assert hash_bits(0, Stream.MASK, torch.arange(3), count).shape == (3, count)
    assert normal(0, Stream.NOISE, torch.arange(3), count).shape == (3, count)
    assert normal(0, Stream.NOISE, torch.arange(0), count).shape == (0, count)


def test_every_bit_is_fair() -> None:
    bits = hash_bits(1, Stream.MASK, torch.arange(64), 1024)
    for shift in range(64):
        share = ((bits >> shift) & 1).double().mean().item()
        assert share == pytest.approx(0.5, abs=5 * 0.5 / math.sqrt(bits.numel()))


def test_uniform_by_chi_square() -> None:
    cells = (hash_bits(2, Stream.MASK, torch.arange(16), 1 << 14) & 255).flatten()
    expected = cells.numel() / 256
    chi_square = ((torch.bincount(cells, minlength=256).double() - expected) ** 2 / expected).sum().item()
    assert abs(chi_square - 255) < 5 * math.sqrt(2 * 255)


def test_seeds_streams_positions_and_counters_are_independent() -> None:
    names = itertools.product((0, 1, 2), (Stream.MASK, Stream.NOISE), (0, 1, 1 << 40))
    rows = torch.stack([normal(seed, stream, torch.tensor([position]), 4096)[0] for seed, stream, position in names])
    correlation = torch.corrcoef(rows.double()) - torch.eye(len(rows))
    assert correlation.abs().max() < 5 / math.sqrt(4096)
    for lag in (1, 2, 2048):
        assert abs((rows[:, :-lag] * rows[:, lag:]).mean().item()) < 5 / math.sqrt(rows[:, lag:].numel())


def test_normal_moments_and_distribution() -> None:
    values = normal(9, Stream.NOISE, torch.arange(8), 1 << 16).double().flatten()
    n = values.numel()
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert (values**power).mean().item() == pytest.approx(moment, abs=5 * math.sqrt(variance / n))
    ordered = values.sort().values
    theory = 0.5 * (1 + torch.erf(ordered / math.sqrt(2)))
    distance = (theory - (torch.arange(n) + 0.5) / n).abs().max().item()
    assert distance < 1.95 / math.sqrt(n)  # Kolmogorov-Smirnov at 0.1 %
    assert torch.isfinite(values).all()


def test_generator_depends_on_all_three_and_on_nothing_else() -> None:
    names = list(itertools.product((0, 1, -1), (Stream.SHUFFLE, Stream.AUGMENT), (0, 1, 1 << 50)))
    draws = [generator(*name).random() for name in names]
    assert len(set(draws)) == len(names)
    np.random.default_rng(0).random()
    assert draws == [generator(*name).random() for name in names]
