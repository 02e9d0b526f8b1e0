"""Every objective with the options that lead through other code: what holds for one must hold for all of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from mri_fm.inputs import Inputs
from mri_fm.model_config import HeadConfig, ModelConfig
from mri_fm.objectives import JEPA, MAE, OBJECTIVES, MAESpectral, Objective

SIZE = (16, 16, 32)
HEAD = HeadConfig(width=24, depth=1, heads=3)
PLAIN = ModelConfig(width=24, depth=1, heads=3, predictor=HEAD, decoder=HEAD)
MILLIMETRES = replace(PLAIN, position="rope", rope_spacing=True, registers=2, qk_norm=True, mlp="swiglu", drop_path=0.5)
MIXTURE = replace(PLAIN, moe_experts=4, moe_active=2, moe_shared=1, moe_width=8, moe_every=1)
MODELS = {"millimetres": MILLIMETRES, "mixture": MIXTURE}
SCHEDULE = {"spectral_weight": 0.5, "ema": 0.99}
VARIANTS = ("plain", "budget", "foreground", "sets", "millimetres", "mixture")
ALL = [(name, variant) for name in OBJECTIVES for variant in VARIANTS]


def options(name: str, variant: str) -> dict[str, Any]:
    """The objective's own part of a variant."""
    jepa, mae, spectral = (issubclass(OBJECTIVES[name], cls) for cls in (JEPA, MAE, MAESpectral))
    sets = {"mask_sets": 2} if jepa else {}
    if variant == "budget":
        return {"token_budget": 0.6, "shared_mask": False, "mask": "tube", **({"patch_norm": True} if mae else {})}
    if variant == "foreground":
        weights = {"token_weight": "foreground"} if jepa else {}
        voxels = {"background_loss": False} if mae else {}
        window = {"mode": "radial_log_power", "shells": 4} if spectral else {}
        return {"foreground": True, "shared_mask": False, "mask": "multiblock", **weights, **voxels, **window}
    if variant == "millimetres":
        return {"units": "cycles_per_mm", "cutoff": 0.1} if spectral else {}
    return sets if variant == "sets" else {}


def build(name: str, variant: str = "plain", **changes: Any) -> Objective:
    """A tiny objective of a variant."""
    config = OBJECTIVES[name].Config(**options(name, variant) | changes)
    return OBJECTIVES[name](config, MODELS.get(variant, PLAIN), SIZE, seed=4)


def inputs(batch: int = 2, device: str = "cpu") -> Inputs:
    """Noise in a box, air around it."""
    foreground = torch.zeros(batch, 1, *SIZE, dtype=torch.bool)
    foreground[..., 4:12, 4:12] = True
    x = torch.where(foreground, torch.randn(batch, 1, *SIZE, generator=torch.Generator().manual_seed(2)), -1.0)
    spacing = torch.tensor([1.0, 0.9, 2.0]).expand(batch, 3)
    return Inputs(x.to(device), torch.arange(8, 8 + batch).to(device), 8, foreground.to(device), spacing.to(device))
