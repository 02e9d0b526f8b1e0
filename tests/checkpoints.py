"""Whole checkpoints without an engine: what a run of one rank leaves, published the same way."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from mri_fm.engine.publication import META_FILE, PARTIAL, Retention, publish, step_name
from mri_fm.engine.stored import FORMAT, rank_file

KEEP_TWO = Retention(keep_last=2)
NO_IDENTITY: dict[str, Any] = {"values": {}, "at_default": []}


def write_checkpoint(
    run_dir: Path,
    step: int,
    weights: Mapping[str, Tensor],
    identity: Mapping[str, Any] = NO_IDENTITY,
    retention: Retention = KEEP_TWO,
) -> Path:
    """The checkpoint of a step, with these weights; returns its folder."""
    folder = run_dir / "checkpoints"
    partial = folder / f"{step_name(step)}{PARTIAL}"
    partial.mkdir(parents=True)
    save_file({f"weight:{name}@0": tensor.reshape(-1) for name, tensor in weights.items()}, partial / rank_file(0))
    meta = {
        "format": FORMAT,
        "step": step,
        "position": step,
        "skips": 0,
        "world": 1,
        "optimizer_step": step,
        "shapes": {name: list(tensor.shape) for name, tensor in weights.items()},
        "identity": dict(identity),
    }
    (partial / META_FILE).write_text(json.dumps(meta))
    publish(partial, step, retention)
    return folder / step_name(step)
