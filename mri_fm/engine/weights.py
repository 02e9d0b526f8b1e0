"""Trained weights out of a run folder, without DeepSpeed's engine: for probes, pictures and export."""

from __future__ import annotations

import io
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mri_fm.config import Config, config_from_yaml
from mri_fm.engine.checkpoint import find_checkpoint, read_meta
from mri_fm.engine.setup import build_objective
from mri_fm.errors import UserError
from mri_fm.objectives import Objective


@dataclass(frozen=True)
class LoadedObjective:
    """An objective with trained fp32 weights on the CPU, in evaluation mode, and where they came from."""

    objective: Objective
    config: Config
    step: int


def load_objective(run_dir: Path, step: int | None = None) -> LoadedObjective:
    """Load the checkpoint of a step of a run, by default the newest.

    Raises:
        UserError: not a run folder, no such checkpoint in it, a damaged one, or one of another model.
    """
    config = config_from_yaml(run_dir / "config.yaml")
    checkpoint = find_checkpoint(run_dir, step)
    objective = build_objective(config)
    try:
        objective.load_state_dict(_consolidated(checkpoint))
    except RuntimeError as error:
        raise UserError(f"{checkpoint} does not fit {run_dir / 'config.yaml'}: {str(error).splitlines()[0]}") from error
    _load_teacher(objective, checkpoint)
    return LoadedObjective(objective.eval(), config, int(read_meta(checkpoint)["step"]))


def _consolidated(checkpoint: Path) -> dict[str, Tensor]:
    """The whole module's fp32 weights from DeepSpeed's files, whatever the ZeRO stage.

    Below stage 3 one file has the forward weights of all parameters and the optimizer's files the fp32 masters of the trained
    ones; at stage 3 everything is in shards.
    """
    state: dict[str, Tensor] = {}
    forward_weights = checkpoint / "mp_rank_00_model_states.pt"
    if forward_weights.is_file():
        state |= torch.load(forward_weights, map_location="cpu", weights_only=False)["module"]
    if any(checkpoint.glob("*_optim_states.pt")):
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):  # DeepSpeed tells every step of it
            from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

            state |= get_fp32_state_dict_from_zero_checkpoint(str(checkpoint.parent), tag=checkpoint.name)
    return {name: tensor.float() for name, tensor in state.items()}


def _load_teacher(objective: Objective, checkpoint: Path) -> None:
    """Prefer the teacher's fp32 masters to its forward weights, where they were saved whole."""
    masters = checkpoint / "ema.pt"
    if masters.is_file():
        saved = torch.load(masters, map_location="cpu", weights_only=True)
        for (teacher, _), master in zip(objective.ema_pairs(), saved, strict=True):
            teacher.data.copy_(master)
