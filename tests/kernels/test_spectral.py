"""The plain pass against autograd in float64; the Triton twin against the plain pass, interpreted on the CPU or on a GPU.

Triton decides when it is imported whether it interprets, so one test runs this file again in a process of its own.
"""

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from mri_fm.kernels.spectral import EPS_LOG, pointwise_plain_

MODES = ("log_magnitude", "magnitude", "complex", "phase_aware")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
triton_twin = [
    pytest.mark.skipif(not INTERPRETED and not torch.cuda.is_available(), reason="no GPU, and Triton does not interpret"),
    *([] if INTERPRETED else [pytest.mark.gpu]),
]


def spectra(rows: int, width: int, dtype: torch.dtype = torch.complex64) -> tuple[Tensor, Tensor, Tensor]:
    """R, G and a filter with zeros, ones and values between; R has exact zeros and bins equal to G's."""
    generator = torch.Generator().manual_seed(rows + width)
    bins = rows * (width // 2 + 1)
    R, G = (torch.randn(3, bins, generator=generator, dtype=torch.complex128) * 50 for _ in range(2))
    h = (torch.rand(bins, generator=generator, dtype=torch.float64) * 2).clamp_max(1)
    h[::5] = 0
    R[:, ::7] = 0
    R[:, 1::7] = G[:, 1::7]
    R[:, 2::7] = G[:, 2::7] * (1 + 1e-4)
    return R.to(dtype), G.to(dtype), h.to(dtype.to_real())


def errors(R: Tensor, G: Tensor, h: Tensor, mode: str) -> Tensor:
    a, b = R.abs(), G.abs()
    if mode == "complex":
        return ((h * (R - G)).abs()) ** 2
    if mode == "magnitude":
        return (h * a - h * b) ** 2
    d = torch.log1p(h * a + EPS_LOG) - torch.log1p(h * b + EPS_LOG)
    phasors = h * R / (1 + h * a) - h * G / (1 + h * b)
    return d**2 + (phasors.real**2 + phasors.imag**2 if mode == "phase_aware" else 0)


@pytest.mark.parametrize("width", [1, 2, 7, 8])
@pytest.mark.parametrize("mode", MODES)
def test_plain_pass_equals_autograd_in_float64(mode, width):
    R, G, h = spectra(11, width, torch.complex128)
    counts = torch.tensor([1] + [2] * (width // 2))
    if width % 2 == 0:
        counts[-1] = 1
    leaf = R.clone().requires_grad_()
    error = errors(leaf, G, h, mode)
    expected = (error * counts.repeat(11)).sum(1)
    (gradient,) = torch.autograd.grad(error.sum(), leaf)
    value = pointwise_plain_(R, G, h, width=width, mode=mode, gradient=True)
    torch.testing.assert_close(value, expected.detach(), rtol=1e-11, atol=0)
    torch.testing.assert_close(R, gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_rows_beyond_one_chunk_count_once(mode):
    R, G, h = spectra(4000, 20)
    whole = pointwise_plain_(R.clone(), G, h, width=20, mode=mode, gradient=False)
    halves = [pointwise_plain_(R[:, i].clone(), G[:, i], h[i], width=20, mode=mode, gradient=False)
              for i in (slice(0, 22000), slice(22000, None))]  # fmt: skip
    torch.testing.assert_close(whole, halves[0] + halves[1], rtol=1e-6, atol=0)


def test_triton_twin_under_the_interpreter():
    if INTERPRETED:
        pytest.skip("this is the interpreted run")
    pytest.importorskip("triton")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", __file__, "-k", "twin and not interpreter"]
    run = subprocess.run(command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "passed" in run.stdout


@pytest.mark.skipif(INTERPRETED, reason="needs the compiler")
@pytest.mark.parametrize("mode", range(len(MODES)))
def test_kernel_compiles_for_an_h100_without_having_one(mode, tmp_path, monkeypatch):
    pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    from mri_fm.kernels.spectral_triton import BLOCK, _pointwise

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    constants = {"EVEN": True, "MODE": mode, "GRADIENT": True, "ONE": 1.0 + EPS_LOG, "BLOCK": BLOCK}
    pointers = {f"{name}_ptr": "*fp32" for name in ("R", "G", "h", "partial")}
    signature = pointers | {"bins": "i32", "half": "i32"} | dict.fromkeys(constants, "constexpr")
    source = ASTSource(fn=_pointwise, signature=signature, constexprs=constants)
    kernel = compile(source, target=GPUTarget("cuda", 90, 32), options={"enable_fp_fusion": False})
    assert len(kernel.asm["cubin"]) > 0


class TestTwin:
    pytestmark = triton_twin

    @pytest.mark.parametrize("gradient", [True, False])
    @pytest.mark.parametrize(("rows", "width"), [(300, 12), (33, 7), (5, 1)])
    @pytest.mark.parametrize("mode", MODES)
    def test_twin_equals_the_plain_pass_in_float64(self, mode, rows, width, gradient):
        from mri_fm.kernels.spectral_triton import pointwise_triton_

        R, G, h = spectra(rows, width)
        R64, G64, h64 = R.to(torch.complex128), G.to(torch.complex128), h.double()
        expected = pointwise_plain_(R64, G64, h64, width=width, mode=mode, gradient=True)
        R = R.to(DEVICE)
        value = pointwise_triton_(R, G.to(DEVICE), h.to(DEVICE), width=width, mode=mode, gradient=gradient)
        assert value.dtype == torch.float64
        torch.testing.assert_close(value.cpu(), expected, rtol=1e-5, atol=0)
        if gradient:
            assert (R.cpu() - R64).norm() < 1e-5 * R64.norm()

    @pytest.mark.parametrize("mode", MODES)
    def test_twin_scores_equal_spectra_0_and_keeps_what_is_not_finite(self, mode):
        from mri_fm.kernels.spectral_triton import pointwise_triton_

        R, _, h = (x.to(DEVICE) for x in spectra(20, 8))
        G = R.clone()
        assert (pointwise_triton_(R, G, h, width=8, mode=mode, gradient=True) == 0).all()
        assert (R == 0).all()
        R, G[1, 3] = G.clone(), float("nan")
        assert pointwise_triton_(R, G, h, width=8, mode=mode, gradient=True).isnan().tolist() == [False, True, False]
