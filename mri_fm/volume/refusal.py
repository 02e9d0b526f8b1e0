"""Why an input is refused: one code per reason."""

from __future__ import annotations

CODES = {
    "not_readable": "no reader understands the file",
    "truncated": "the file ends before the voxels its header promises",
    "not_3d": "more than one volume, colour or complex voxels, or fewer than three axes",
    "not_mr": "the header or sidecar names another modality",
    "label": "a segmentation or mask: few distinct integer values",
    "no_orientation": "the header does not say how the voxels lie in space",
    "field_of_view": "an axis covers too little for a head",
    "spacing": "voxels further apart than the limit",
    "constant": "every voxel has the same value",
    "non_finite": "NaN or infinite voxels",
    "too_few_slices": "an axis has too few voxels",
    "too_large": "more voxels than any brain scan has",
    "ambiguous_series": "a DICOM series that converts to several volumes",
    "no_foreground": "no connected object stands out from the background",
    "reader_crashed": "the process that read the file died",
}
"""Code → meaning; the ledger's `code` column holds nothing else but "" and "duplicate"."""


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
