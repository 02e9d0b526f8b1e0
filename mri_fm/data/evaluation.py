"""The configuration of an evaluation's input: `data.evaluation`."""

from __future__ import annotations

from dataclasses import dataclass

from mri_fm.errors import UserError


@dataclass
class EvaluationConfig:
    """How a volume becomes one input where nothing is drawn: probes, validation, collapse metrics, surveys.

    Raises:
        UserError: a rule that is not known.
    """

    plane: str = (
        "spacing"  # depth is: spacing (the axis of thick slices, else axial), shape (the shortest axis, as in the paper)
    )
    crop: str = "centre"  # centre (a square across the depth), whole (everything is resized to data.size)

    def __post_init__(self) -> None:
        """Check what types cannot."""
        for key, allowed in {"plane": ("spacing", "shape"), "crop": ("centre", "whole")}.items():
            if getattr(self, key) not in allowed:
                raise UserError(f"data.evaluation.{key}={getattr(self, key)} is not one of {', '.join(allowed)}")
