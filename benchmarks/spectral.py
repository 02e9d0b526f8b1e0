"""What the fused spectral loss costs, forward and backward, against the form in which it was published.

    python benchmarks/spectral.py                       # everything, on the GPU where there is one
    python benchmarks/spectral.py --batches 1 --no-step # a minute

The published form is what arXiv 2606.13315 describes and its code does step by step: z-score, full complex transform of
prediction and target, a filter built in every call, the magnitudes' logarithms, automatic differentiation. It is written here
from that description. Both forms are timed in turns, A B A B, and the median of the ratios of neighbours is given: CPU time of
the process on the CPU, events on a GPU. Memory is the growth of the peak over one call in a process of its own (resident set,
with freed memory given back at once; on a GPU, the allocator's peak).

Prints Markdown for `benchmarks/results/spectral.md`.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from mri_fm.inputs import Inputs
from mri_fm.losses.spectral import spectral_loss
from mri_fm.model_config import HeadConfig, ModelConfig
from mri_fm.objectives.mae import MAE
from mri_fm.objectives.mae_spectral import MAESpectral

Size3 = tuple[int, int, int]
DIMS = (2, 3, 4)
POSITIONS = torch.arange(1)


def published(pred: Tensor, target: Tensor, cutoff: float = 0.3) -> Tensor:
    spectra = []
    for x in (pred, target):
        z = (x - x.mean(DIMS, keepdim=True)) / (x.std(DIMS, keepdim=True) + 1e-6)
        F = torch.fft.fftn(z, dim=DIMS)
        fz, fy, fx = torch.meshgrid(*(torch.fft.fftfreq(n, device=x.device) for n in x.shape[2:]), indexing="ij")
        radius = torch.sqrt(fz**2 + fy**2 + fx**2)
        keep = (radius / radius.max() >= cutoff).to(x.dtype)
        spectra.append(torch.log1p((F * keep).abs() + 1e-6))
    return torch.nn.functional.mse_loss(spectra[0], spectra[1])


def transforms(pred: Tensor, target: Tensor) -> Tensor:
    R, _ = (torch.fft.rfftn(x, dim=DIMS) for x in (pred.detach(), target))
    return torch.fft.irfftn(R, s=pred.shape[2:], dim=DIMS)


def backward(loss: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], None]:
    def call(pred: Tensor, target: Tensor) -> None:
        torch.autograd.grad(loss(pred, target), pred)

    return call


FORMS: dict[str, Callable[[Tensor, Tensor], object]] = {
    "fused": backward(spectral_loss),
    "published": backward(published),
    "transforms": transforms,
}


def volumes(batch: int, size: Size3, device: str) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    target = torch.randn(batch, 1, *size, device=device)
    return (target + 0.3 * torch.randn_like(target)).requires_grad_(), target


def seconds(call: Callable[[], object], device: str) -> float:
    """CPU time of the process, or the GPU's time between two events."""
    if device == "cpu":
        start = time.process_time()
        call()
        return time.process_time() - start
    events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
    events[0].record()
    call()
    events[1].record()
    torch.cuda.synchronize()
    return events[0].elapsed_time(events[1]) / 1e3


def in_turns(calls: Mapping[str, Callable[[], object]], repeats: int, device: str) -> dict[str, list[float]]:
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            times[name].append(seconds(call, device))
    return times


def ratio(times: dict[str, list[float]], over: str, under: str) -> str:
    ratios = [a / b for a, b in zip(times[over], times[under], strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"


def peak_memory(form: str, batch: int, size: Size3, device: str) -> list[float]:
    """MiB by which a first and a second call raise the peak, measured in a process of its own."""
    words = ["--memory-of", form, "--batches", str(batch), "--size", *map(str, size), "--device", device]
    # Without these malloc keeps freed memory, and a second call finds it there.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    run = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True, check=True, env=environment)
    return [float(word) for word in run.stdout.split()]


def growth(form: str, batch: int, size: Size3, device: str) -> list[float]:
    FORMS[form](*volumes(1, (8, 8, 8), device))  # loads libraries and compiles kernels
    pred, target = volumes(batch, size, device)
    grown = []
    for _ in range(2):
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            FORMS[form](pred, target)
            grown.append((torch.cuda.max_memory_allocated() - before) / 2**20)
        else:
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts again at what is resident now
            before = status("VmRSS")
            FORMS[form](pred, target)
            grown.append((status("VmHWM") - before) / 2**10)
    return grown


def status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])


def loss_rows(batch: int, size: Size3, repeats: int, device: str) -> list[str]:
    pred, target = volumes(batch, size, device)
    calls = {name: lambda form=form: form(pred, target) for name, form in FORMS.items()}
    times = in_turns(calls, repeats, device)
    memory = {name: peak_memory(name, batch, size, device) for name in ("fused", "published")}
    first, second = (a / b for a, b in zip(memory["fused"], memory["published"], strict=True))
    medians = {name: statistics.median(values) * 1e3 for name, values in times.items()}
    shown = ", ".join(f"{name} {value:.3g} ms" for name, value in medians.items())
    return [
        f"| {batch} | time, fused / published | {ratio(times, 'fused', 'published')} | ≤ 0.5 | {shown} |",
        f"| {batch} | time, fused / three transforms | {ratio(times, 'fused', 'transforms')} | "
        f"≤ {'2.5' if device == 'cpu' else '1.5'} | |",
        f"| {batch} | peak extra memory, fused / published | {second:.2f} | ≤ 0.4 | "
        f"{memory['fused'][1]:.0f} / {memory['published'][1]:.0f} MiB; {first:.2f} in a first call, which keeps the filter |",
    ]


def step_row(size: Size3, repeats: int, device: str) -> str:
    """The extra work of `mae_spectral` (mosaic, loss, metric, its backward pass) against one whole step of `mae`."""
    model = ModelConfig(width=384, depth=12, heads=6, decoder=HeadConfig(width=384, depth=8, heads=6))
    mae = MAE(MAE.Config(), model, size, seed=0).to(device)
    spectral = MAESpectral(MAESpectral.Config(), model, size, seed=0).to(device)
    inputs = Inputs(volumes(1, size, device)[1], POSITIONS.to(device), 0)
    with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"), torch.no_grad():
        pred_BMP, hidden_BM = spectral.predict(inputs)
    leaf_BMP = pred_BMP.float().requires_grad_()
    spectral.predict = lambda *_: (leaf_BMP, hidden_BM)  # type: ignore[method-assign]

    def step() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            loss, _ = mae(inputs, {})
        loss.backward()
        mae.zero_grad()

    def losses(objective: MAE) -> None:
        loss, _ = objective(inputs, {"spectral_weight": 0.01})
        torch.autograd.grad(loss, leaf_BMP)

    mae_losses = MAE(MAE.Config(), model, size, seed=0)
    mae_losses.predict = spectral.predict  # type: ignore[method-assign]
    calls = {"step": step, "both losses": lambda: losses(spectral), "voxel loss": lambda: losses(mae_losses)}
    times = in_turns(calls, repeats, device)
    extra = [a - b for a, b in zip(times["both losses"], times["voxel loss"], strict=True)]
    share = statistics.median(a / b for a, b in zip(extra, times["step"], strict=True))
    shown = f"{statistics.median(extra) * 1e3:.3g} ms of {statistics.median(times['step']) * 1e3:.4g} ms"
    return f"| 1 | overhead on a ViT-S/8 MAE step (forward and backward) | {100 * share:.2f} % | ≤ 3 % | {shown} |"


def header(device: str, size: Size3) -> list[str]:
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip()
    model = next((x.split(":")[1].strip() for x in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in x), "?")
    where = f"{model}, {torch.get_num_threads()} threads" if device == "cpu" else torch.cuda.get_device_name()
    return [
        f"## {datetime.date.today()}, {where}",
        "",
        f"{' × '.join(map(str, size))} voxels, float32, `log_magnitude`, cutoff 0.3; forward and backward pass; torch "
        f"{torch.__version__}, Python {platform.python_version()}, commit {commit or 'unknown'}.",
        "",
        "| batch | quantity | median (range) | target | medians |",
        "|---|---|---|---|---|",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=3, default=[160, 160, 144])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--repeats", type=int, default=15, help="pairs at batch 1; fewer at larger ones")
    parser.add_argument("--step-repeats", type=int, default=3)
    parser.add_argument("--no-step", action="store_true")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--memory-of", choices=["fused", "published"], help=argparse.SUPPRESS)
    words = parser.parse_args()
    size = (words.size[0], words.size[1], words.size[2])
    if words.memory_of:
        print(*growth(words.memory_of, words.batches[0], size, words.device))
        return
    for line in header(words.device, size):
        print(line)
    for batch in words.batches:
        for row in loss_rows(batch, size, max(3, words.repeats // batch), words.device):
            print(row, flush=True)
    if not words.no_step:
        print(step_row(size, words.step_repeats, words.device))


if __name__ == "__main__":
    main()
