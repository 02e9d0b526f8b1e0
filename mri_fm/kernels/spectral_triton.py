"""The Triton twin of `mri_fm.kernels.spectral.pointwise_plain_`, for complex64 on CUDA.

One program takes BLOCK bins of one volume, writes the gradient over R and one partial sum. Importing this needs `triton`,
which torch's CUDA builds bring along; with TRITON_INTERPRET=1 set before the import it runs on CPU tensors.

Axes: S volumes (samples times channels), F bins of the half spectrum, T blocks of bins.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from mri_fm.kernels.spectral import EPS_LOG

BLOCK = 1024
_NUMBERS = {"log_magnitude": 0, "magnitude": 1, "complex": 2, "phase_aware": 3}


def pointwise_triton_(R_SF: Tensor, G_SF: Tensor, h_F: Tensor, *, width: int, mode: str, gradient: bool) -> Tensor:
    """See `mri_fm.kernels.spectral.pointwise_`."""
    volumes, bins = R_SF.shape
    blocks = triton.cdiv(bins, BLOCK)
    partial_ST = torch.empty(volumes, blocks, dtype=torch.float32, device=R_SF.device)
    _pointwise[(blocks, volumes)](
        torch.view_as_real(R_SF),
        torch.view_as_real(G_SF),
        h_F,
        partial_ST,
        bins,
        width // 2 + 1,
        EVEN=width % 2 == 0,
        MODE=_NUMBERS[mode],
        GRADIENT=gradient,
        ONE=1.0 + EPS_LOG,
        BLOCK=BLOCK,
        enable_fp_fusion=False,  # a fused p·R − q·G would not be 0 for equal spectra
    )
    return partial_ST.double().sum(1)


@triton.jit
def _log1p(x: tl.tensor) -> tl.tensor:
    """log(1 + x) for x > −1: the series of 2·artanh(x/(2 + x)) near 0, where the hardware's logarithm loses digits."""
    s = x / (2.0 + x)
    s2 = s * s
    series = 2.0 * s * (1.0 + s2 * (0.33333333 + s2 * (0.2 + s2 * (0.14285714 + s2 * 0.11111111))))
    return tl.where(tl.abs(s) < 0.17, series, tl.log(1.0 + x))


@triton.jit
def _over(x: tl.tensor, a: tl.tensor) -> tl.tensor:
    """x/a, but 0 where a = 0; NaN stays NaN."""
    return tl.where(a == 0.0, 0.0, x / tl.where(a == 0.0, 1.0, a))


@triton.jit
def _load_complex(pointer: tl.tensor, inside: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """Real and imaginary parts, interleaved in memory."""
    return tl.load(pointer, mask=inside, other=0.0), tl.load(pointer + 1, mask=inside, other=0.0)


@triton.jit
def _count(x: tl.tensor, half: tl.tensor, EVEN: tl.constexpr) -> tl.tensor:
    """How often a bin of the half spectrum stands in the whole one: twice, but for the columns that are their own mirror."""
    single = x == 0
    if EVEN:
        single = single | (x == half - 1)
    return tl.where(single, 1.0, 2.0)


@triton.jit
def _pointwise(
    R_ptr: tl.tensor,
    G_ptr: tl.tensor,
    h_ptr: tl.tensor,
    partial_ptr: tl.tensor,
    bins: tl.tensor,
    half: tl.tensor,
    EVEN: tl.constexpr,
    MODE: tl.constexpr,
    GRADIENT: tl.constexpr,
    ONE: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    block = tl.program_id(0)
    volume = tl.program_id(1)
    k = block * BLOCK + tl.arange(0, BLOCK)
    inside = k < bins
    offset = 2 * (volume.to(tl.int64) * bins + k)
    h = tl.load(h_ptr + k, mask=inside, other=0.0)
    R_re, R_im = _load_complex(R_ptr + offset, inside)
    G_re, G_im = _load_complex(G_ptr + offset, inside)
    a = tl.sqrt(R_re * R_re + R_im * R_im)
    b = tl.sqrt(G_re * G_re + G_im * G_im)

    if MODE == 2:
        V_re = h * (R_re - G_re)
        V_im = h * (R_im - G_im)
        error = V_re * V_re + V_im * V_im
        D_re = 2.0 * h * V_re
        D_im = 2.0 * h * V_im
    elif MODE == 1:
        d = h * (a - b)
        error = d * d
        along = _over(2.0 * h * d, a)
        D_re = along * R_re
        D_im = along * R_im
    else:
        d = _log1p(h * (a - b) / (ONE + h * b))
        error = d * d
        slope = 2.0 * d * h / (ONE + h * a)
        if MODE == 0:
            along = _over(slope, a)
            D_re = along * R_re
            D_im = along * R_im
        else:
            p = h / (1.0 + h * a)
            q = h / (1.0 + h * b)
            V_re = p * R_re - q * G_re
            V_im = p * R_im - q * G_im
            error += V_re * V_re + V_im * V_im
            along = _over(slope - 2.0 * p * p * (R_re * V_re + R_im * V_im), a)
            D_re = 2.0 * p * V_re + along * R_re
            D_im = 2.0 * p * V_im + along * R_im

    partial = tl.sum(tl.where(inside, _count(k % half, half, EVEN) * error, 0.0))
    tl.store(partial_ptr + volume * tl.num_programs(0) + block, partial)
    if GRADIENT:
        tl.store(R_ptr + offset, D_re, mask=inside)
        tl.store(R_ptr + offset + 1, D_im, mask=inside)
