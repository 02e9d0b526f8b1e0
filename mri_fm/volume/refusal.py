"""Why an input is refused: one code per reason, and what its owner can do about it (docs/intake.md shows the table)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Code:
    """One entry of the list: what a code means, and what to do for the input to be accepted."""

    meaning: str
    remedy: str


LEAVE = "nothing: it is no scan to learn from"

CODES = {
    "not_readable": Code("no reader understands the file", "open it in the tool that wrote it and export it again"),
    "truncated": Code("the file ends before the voxels that its header promises", "copy or download it again"),
    "too_large": Code("more voxels than any brain scan has, or than memory holds", "look whether the header is damaged"),
    "reader_crashed": Code("the process that read the file died", "give the workers more memory, or export the file again"),
    "not_3d": Code(
        "more than one volume (time series, vectors), colour or complex voxels, or fewer than three axes",
        "for a time or diffusion series: --reference-volume takes one volume of it",
    ),
    "not_mr": Code("the header or sidecar names another modality (CT, PET), a screenshot, or a statistical map", LEAVE),
    "label": Code("a segmentation or mask, told by its voxels: few values, regions of one value each, or two extremes", LEAVE),
    "derived_map": Code("phase, a projection, or a map in physical units (ADC, FA, T1, field, perfusion)", LEAVE),
    "localizer": Code("the header calls it a localizer", LEAVE),
    "ambiguous_series": Code("a DICOM series that converts to several volumes", "split it by echo, or export the volumes"),
    "uneven_slices": Code("the slices of a DICOM series lie at varying distances", "copy it again: a slice may be missing"),
    "no_orientation": Code(
        "the header does not say how the voxels lie in space", "export it again with its orientation (sform, qform)"
    ),
    "sheared": Code("the axes of the voxel grid are not at right angles", "resample it to a rectangular grid"),
    "spacing": Code("voxels further apart than the limit", "raise --max-spacing if such slices are wanted"),
    "field_of_view": Code("an axis covers too little for a head", "look whether the units of the header are right"),
    "too_few_slices": Code("an axis has too few voxels", LEAVE),
    "constant": Code("every voxel has the same value", LEAVE),
    "non_finite": Code("NaN or infinite voxels inside the head, where nothing can stand in for them", "export it again"),
    "no_foreground": Code("no connected object stands out from the background", LEAVE),
    "no_brain_mask": Code(
        "there is no brain mask beside it on its grid, or the extraction tool gave none",
        "put one there, or build with another --brain",
    ),
    "non_human": Code("the header or sidecar names another species", LEAVE),
    "excluded_by_rule": Code("excluded by a rule of its data set", "see docs/datasets.md, which states the rule"),
    "duplicate": Code("the same voxels on the same grid as another input", "nothing: the other one is in the corpus"),
}
"""The ledger's `code` column holds a key of this, or "" where the input is accepted."""


class Refusal(Exception):  # noqa: N818 - an answer, not an error
    """A bad input, by name.

    Attributes:
        code: a key of `CODES`.
        reason: what was found, in one line, without the path.
    """

    def __init__(self, code: str, reason: str) -> None:
        if code not in CODES:
            raise ValueError(f"unknown refusal code '{code}'")
        self.code = code
        self.reason = " ".join(reason.split())[:300]
        super().__init__(f"{code}: {self.reason}")

    def __reduce__(self) -> tuple[type[Refusal], tuple[str, str]]:
        return Refusal, (self.code, self.reason)
