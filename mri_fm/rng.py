"""Randomness as a pure function of (seed, stream, position): no state, so nothing to save and nothing to desynchronise.

Two generators share that rule. `generator` (NumPy Philox-4x64, Salmon et al., SC 2011) draws the few parameters of one
sample on the host. `hash_bits` and what builds on it (SplitMix64 finaliser, Steele et al., OOPSLA 2014) give one number
per token or voxel on any device, with integer arithmetic that is the same on CPU and GPU.
"""

from __future__ import annotations

import math
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as int64
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB
_MASK_64 = (1 << 64) - 1
_CPU_BLOCK = 1 << 16  # numbers that stay in a core's cache from one operation to the next


class Stream(IntEnum):
    """Names of the independent random streams; one number each, never reused."""

    SHUFFLE = 1
    AUGMENT = 2
    MASK = 3
    NOISE = 4
    SUBSTITUTE = 5
    INIT = 6
    EVALUATE = 7
    RENDER = 8
    DROP_PATH = 9
    BUDGET = 10
    MASK_BLOCK = 11
    SLICE = 12
    MIXTURE = 13
    SESSION = 14
    CROP = 15
    ARTEFACT = 16
    SPLIT = 17
    SIGNAL = 18


def generator(seed: int, stream: Stream, position: int) -> np.random.Generator:
    """A NumPy generator that depends on (seed, stream, position) alone."""
    counter = np.array([0, 0, 0, position & _MASK_64], dtype=np.uint64)
    key = np.array([seed & _MASK_64, int(stream)], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(counter=counter, key=key))


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64 (torch's own is arithmetic)."""
    return (x >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def _mix_(x: Tensor) -> Tensor:
    """SplitMix64's finaliser, in place: a bijection of 64-bit integers that flips half the bits on any change."""
    x.bitwise_xor_(_shift_right(x, 30)).mul_(_MIX_1)
    x.bitwise_xor_(_shift_right(x, 27)).mul_(_MIX_2)
    return x.bitwise_xor_(_shift_right(x, 31))


def hash_bits(seed: int, stream: Stream, positions_B: Tensor, count: int, first: int = 0) -> Tensor:
    """64 random bits for each (position, counter) pair.

    Args:
        seed: the run's seed.
        stream: which independent stream.
        positions_B: int64 (B,), global sample positions; the result lies on their device.
        count: how many numbers per position.
        first: the counter of the first of them.

    Returns:
        int64 (B, count), uniform over all 64-bit patterns.
    """
    lane = _signed(seed * 0x9E3779B97F4A7C15 + int(stream))
    mixed_lane = int(_mix_(torch.tensor(lane)))  # on the host: no copy to the device that would wait for it
    row_B1 = _mix_(_mix_(positions_B.to(torch.int64) ^ mixed_lane).add_(lane))[:, None]
    counter_N = torch.arange(first + 1, first + count + 1, device=positions_B.device).mul_(_GOLDEN)
    return _mix_(row_B1 + counter_N)


def uniform(seed: int, stream: Stream, positions_B: Tensor, count: int) -> Tensor:
    """Uniform float32 (B, count) in [0, 1), multiples of 2^-24; see `hash_bits` for the arguments."""
    return _shift_right(hash_bits(seed, stream, positions_B, count), 40).to(torch.float32).mul_(2.0**-24)


def normal(seed: int, stream: Stream, positions_B: Tensor, count: int) -> Tensor:
    """Standard normal float32 (B, count) by Box-Muller, two values from each 64 bits; see `hash_bits` for the arguments."""
    half = (count + 1) // 2
    block = _CPU_BLOCK if positions_B.device.type == "cpu" else max(half, 1)
    values = torch.empty(len(positions_B), 2 * half, device=positions_B.device)
    for first in range(0, half, block):
        last = min(first + block, half)
        bits = hash_bits(seed, stream, positions_B, last - first, first)
        radius = (bits & 0xFFFFFFFF).to(torch.float32).add_(0.5).mul_(2.0**-32).clamp_(max=1 - 2**-24)
        radius.log_().mul_(-2.0).sqrt_()
        angle = _shift_right(bits, 32).to(torch.float32).mul_(2.0 * math.pi * 2.0**-32)
        torch.mul(radius, angle.cos(), out=values[:, first:last])
        torch.mul(radius, angle.sin_(), out=values[:, half + first : half + last])
    return values[:, :count]


def _signed(value: int) -> int:
    """The int64 with the same low 64 bits as `value`."""
    value &= _MASK_64
    return value - (1 << 64) if value >= 1 << 63 else value
