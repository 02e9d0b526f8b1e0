"""Trained weights out of a run folder, without DeepSpeed's engine: for probes, pictures and export."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mri_fm.config import Config, config_from_yaml
from mri_fm.engine.checkpoint import find_checkpoint
from mri_fm.engine.setup import build_objective
from mri_fm.engine.stored import Stored
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
    stored = Stored(find_checkpoint(run_dir, step))
    objective = build_objective(config)
    try:
        objective.load_state_dict(dict(stored.weights()))
    except RuntimeError as error:
        message = str(error).splitlines()[0]
        raise UserError(f"{stored.checkpoint} does not fit {run_dir / 'config.yaml'}: {message}") from error
    return LoadedObjective(objective.eval(), config, int(stored.meta["step"]))
