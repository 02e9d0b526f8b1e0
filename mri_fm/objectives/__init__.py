"""The registry: a new objective is one file here, one line below, one preset and one test."""

from __future__ import annotations

from mri_fm.objectives.base import Objective
from mri_fm.objectives.hybrid import Hybrid
from mri_fm.objectives.jepa import JEPA
from mri_fm.objectives.jepa_sigreg import JEPASIGReg
from mri_fm.objectives.jepa_vcr import JEPAVCR
from mri_fm.objectives.mae import MAE
from mri_fm.objectives.mae_spectral import MAESpectral

OBJECTIVES: dict[str, type[Objective]] = {
    "mae": MAE,
    "mae_spectral": MAESpectral,
    "jepa": JEPA,
    "jepa_vcr": JEPAVCR,
    "jepa_sigreg": JEPASIGReg,
    "hybrid": Hybrid,
}


def objective_class(name: str) -> type[Objective]:
    """The class registered as `name`.

    Raises:
        UserError: there is none; the nearest name is given.
    """
    import difflib

    from mri_fm.errors import UserError

    if name not in OBJECTIVES:
        near = difflib.get_close_matches(name, OBJECTIVES, n=1, cutoff=0.4)
        hint = f", did you mean '{near[0]}'?" if near else ""
        raise UserError(f"no objective '{name}'{hint}; there are {', '.join(OBJECTIVES)}")
    return OBJECTIVES[name]


__all__ = ["OBJECTIVES", "Objective", "objective_class"]
