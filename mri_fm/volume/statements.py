"""What a header or a sidecar states that disqualifies a volume: its modality, kind of image, unit or species.

The names of fields are those of DICOM (PS3.6), which BIDS sidecars share (BIDS specification, MRI metadata).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mri_fm.volume.refusal import Refusal

MAX_SIDECAR_BYTES = 1 << 20
OTHER_MODALITIES = {"CT", "PT", "PET", "NM", "US", "CR", "DX", "DR", "XA", "RF", "MG", "OT", "SC", "SEG", "MEG", "EEG", "SM"}
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"  # the class of screenshots and scanned films, and the prefix of its kinds
SCREENSHOTS = {"SCREEN SAVE", "SCREEN_SAVE", "SCREENSHOT"}
PHASES = {"P", "PHASE", "PHASE MAP", "PHASE_MAP", "R", "REAL", "I", "IMAGINARY"}
MAPS = {
    "ADC", "ADC_MAP", "EADC", "EXP", "FA", "FA_MAP", "COLFA", "TENSOR", "T1 MAP", "T1_MAP", "T2 MAP", "T2_MAP", "T2* MAP",
    "T2_STAR MAP", "T2_STAR_MAP", "R1_MAP", "R2_MAP", "R2_STAR_MAP", "PD MAP", "B0", "B0 MAP", "B1", "B1 MAP", "FIELD MAP",
    "FIELD_MAP", "QSM", "CBF", "RCBF", "CBV", "RCBV", "RELCBF", "RELCBV", "MTT", "TTP", "TMAX", "VELOCITY", "STRAIN", "T_TEST",
}  # fmt: skip
PROJECTIONS = {"MIP", "MINIP", "PROJECTION IMAGE"}
PET_UNITS = {"bq/ml", "bqml", "suv", "hu"}
PHYSICAL_UNITS = {"rad", "rad/s", "hz", "t", "tesla", "ppm", "ppb", "s", "ms", "us", "1/s", "s-1", "s^-1", "mm2/s", "mm^2/s",
                  "um2/ms", "ml/100g/min", "ml/100 g/min", "%"}  # fmt: skip
HUMAN = {"", "human", "homo sapiens", "h. sapiens", "n/a", "unknown"}
BIDS_NAME = re.compile(r"sub-[a-zA-Z0-9]+_(?:.+_)?([a-zA-Z0-9]+)\.nii(?:\.gz)?")
BIDS_MAPS = {"T1map", "T2map", "T2starmap", "R1map", "R2map", "R2starmap", "PDmap", "PDT2map", "MTRmap", "MTsat", "MTVmap",
             "MWFmap", "S0map", "M0map", "Chimap", "TB1map", "RB1map", "phase", "phase1", "phase2", "phasediff", "fieldmap",
             "probseg"}  # fmt: skip
BIDS_OTHER = {"ct", "pet", "statmap"}


def check_statements(fields: Mapping[str, Any]) -> None:
    """Refuse what the fields of a DICOM header or sidecar say is no MR magnitude volume of a person.

    Raises:
        Refusal: not_mr, derived_map, localizer or non_human.
    """
    modality = _text(fields, "Modality").upper()
    if modality in OTHER_MODALITIES or "Radionuclide" in fields or "TracerName" in fields:
        raise Refusal("not_mr", f"modality {modality or 'with a tracer'}")
    if _text(fields, "SOPClassUID").startswith(SECONDARY_CAPTURE):
        raise Refusal("not_mr", "a secondary capture: a screenshot or a scanned film")
    species = _text(fields, "PatientSpeciesDescription") or _text(fields, "Species")
    if species.strip().lower() not in HUMAN:
        raise Refusal("non_human", "the header names a species that is not human")
    _check_image_type({word.strip().upper() for word in _image_type(fields)[2:]})
    _check_unit(_text(fields, "Units").strip().lower().replace("²", "2"))


def check_sidecar(path: Path) -> None:
    """`check_statements` on the JSON beside an image, and on its name where that is one of BIDS.

    Raises:
        Refusal: as `check_statements`.
    """
    match = BIDS_NAME.fullmatch(path.name)
    if match and (match[1] in BIDS_MAPS or re.search(r"_part-(phase|real|imag)_", path.name)):
        raise Refusal("derived_map", f"its BIDS name says {match[1]}")
    if match and match[1] in BIDS_OTHER:
        raise Refusal("not_mr", f"its BIDS name says {match[1]}")
    check_statements(read_sidecar(path))


def sidecar_of(path: str) -> str:
    """The path of the JSON beside an image: `a/b_T1w.nii.gz` → `a/b_T1w.json`."""
    shorter = re.sub(r"\.(gz|bz2)$", "", path, flags=re.IGNORECASE)
    return re.sub(r"\.[^./]+$", "", shorter) + ".json"


def read_sidecar(path: Path) -> dict[str, Any]:
    """The fields of the JSON beside an image; {} where there is none, or none that can be read."""
    sidecar = Path(sidecar_of(str(path)))
    try:
        if not sidecar.is_file() or sidecar.stat().st_size > MAX_SIDECAR_BYTES:
            return {}
        fields = json.loads(sidecar.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    return value if isinstance(value, str) else ""


def _image_type(fields: Mapping[str, Any]) -> list[str]:
    """DICOM's ImageType: original or derived, primary or secondary, then what kind of image it is."""
    value = fields.get("ImageType")
    if isinstance(value, str):
        return value.split("\\")
    return [word for word in value if isinstance(word, str)] if isinstance(value, list) else []


def _check_image_type(words: set[str]) -> None:
    if words & {"LOCALIZER", "SCOUT"}:
        raise Refusal("localizer", "its image type says so")
    if found := words & SCREENSHOTS:
        raise Refusal("not_mr", f"image type {min(found)}")
    if found := words & (PHASES | MAPS | PROJECTIONS):
        raise Refusal("derived_map", f"image type {min(found)}")


def _check_unit(unit: str) -> None:
    if unit in PET_UNITS:
        raise Refusal("not_mr", f"voxels in {unit}")
    if unit in PHYSICAL_UNITS:
        raise Refusal("derived_map", f"voxels in {unit}")
