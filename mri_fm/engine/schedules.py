"""Schedules are arrays over optimizer steps, built once; resuming is an index."""

from __future__ import annotations

import numpy as np

from mri_fm.train_config import OptimConfig


def warmup_cosine(steps: int, *, start: float, peak: float, end: float, warmup: int) -> np.ndarray:
    """Linear from `start` to `peak` over `warmup` steps, then half a cosine down to `end` at the last step.

    Returns:
        float64 (steps,).
    """
    values = np.full(steps, end, dtype=np.float64)
    values[:warmup] = np.linspace(start, peak, warmup, endpoint=False)[: len(values[:warmup])]
    tail = steps - warmup
    if tail > 0:
        progress = np.linspace(0.0, 1.0, tail) if tail > 1 else np.zeros(1)
        values[warmup:] = end + (peak - end) * (1 + np.cos(np.pi * progress)) / 2
    return values


def optimizer_schedules(optim: OptimConfig, steps: int, global_batch: int) -> dict[str, np.ndarray]:
    """The learning rate ("lr") and the weight decay ("weight_decay") per optimizer step.

    As in arXiv 2606.13315: linear warm-up, then a cosine; the weight decay follows a cosine from the first step. With
    `decay: constant` and a cool-down it is the warm-up, stable, decay schedule (Hu et al., MiniCPM, 2024), which can be
    continued from before its cool-down. All rates follow the global batch by `OptimConfig.rate_factor`.

    Returns:
        float64 arrays of shape (steps,).
    """
    warmup = min(round(optim.warmup * steps), steps)
    cooldown = min(round(optim.cooldown * steps), steps - warmup)
    middle = steps - cooldown
    end = optim.lr if optim.decay == "constant" else optim.lr_end
    rate = np.full(steps, optim.lr_end, dtype=np.float64)
    rate[:middle] = warmup_cosine(middle, start=optim.lr_start, peak=optim.lr, end=end, warmup=warmup)
    if cooldown:
        rate[middle:] = np.linspace(rate[middle - 1] if middle else optim.lr, optim.lr_end, cooldown + 1)[1:]
    decay = warmup_cosine(steps, start=optim.weight_decay, peak=optim.weight_decay, end=optim.weight_decay_end, warmup=0)
    return {"lr": rate * optim.rate_factor(global_batch), "weight_decay": decay}
