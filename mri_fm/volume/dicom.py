"""DICOM series: recognising and grouping files, and conversion by dcm2niix, which knows the vendors' dialects."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import dcm2niix
import pydicom
from pydicom.multival import MultiValue

from mri_fm.volume.refusal import Refusal
from mri_fm.volume.statements import check_statements

PREAMBLE = 128
MAGIC = b"DICM"
BARE_START = re.compile(rb"[\x02\x08]\0[\x00-\x7f]\0(?:[A-Z]{2}|[\x00-\xff][\x00-\x0f]\0\0)", re.DOTALL)
"""The first data element of a file without the preamble: group 2 or 8, little-endian, with a type or a small length."""
TIMEOUT_S = 600
TAGS = [
    "SeriesInstanceUID", "PatientID", "Modality", "SOPClassUID", "ImageType", "PatientSpeciesDescription", "SeriesDescription",
    "ProtocolName",
]  # fmt: skip
PUBLIC_FIELDS = ("SeriesDescription", "ProtocolName", "SequenceName", "ScanningSequence", "PulseSequenceName")
UNEVEN = "Interslice distance varies"  # dcm2niix's warning; it goes on as if no slice were missing
NOT_MAGNITUDE = ("_ph", "_real", "_imaginary", "_phMag")  # how dcm2niix ends the names of the other parts of a complex series


def is_dicom(path: Path) -> bool:
    """Whether a file starts as DICOM part 10 says, 128 bytes and then "DICM", or with a data element, as older files do."""
    with path.open("rb") as stream:
        start = stream.read(PREAMBLE + len(MAGIC))
    return start[PREAMBLE:] == MAGIC or BARE_START.match(start) is not None


def series_tags(path: Path) -> dict[str, str]:
    """The few header fields (`TAGS`) that tell series, person and kind apart; {} where the header cannot be read."""
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=TAGS, force=True)
        values = {tag: header.get(tag, "") or "" for tag in TAGS}
        return {tag: "\\".join(map(str, v)) if isinstance(v, MultiValue) else str(v) for tag, v in values.items()}
    except Exception:  # any of pydicom's many; the conversion then says what is wrong
        return {}


@contextmanager
def convert_series(files: Sequence[Path]) -> Iterator[tuple[Path, dict[str, str]]]:
    """Convert the files of one series to one NIfTI in a temporary folder; of magnitude and phase, the magnitude.

    Yields:
        The NIfTI file, and the header fields of `PUBLIC_FIELDS` that dcm2niix found.

    Raises:
        Refusal: not_mr, derived_map, localizer or non_human by the header; not_readable, uneven_slices or ambiguous_series.
    """
    files = _without_disqualified(files)
    with tempfile.TemporaryDirectory(prefix="series-") as folder:
        source, target = Path(folder, "in"), Path(folder, "out")
        source.mkdir()
        target.mkdir()
        for number, file in enumerate(files):
            _link(file, source / f"{number:06d}.dcm")
        output = _run_dcm2niix(source, target)
        if UNEVEN in output:
            raise Refusal("uneven_slices", "the distance between slices varies")
        images = [image for image in sorted(target.glob("*.nii")) if not image.stem.endswith(NOT_MAGNITUDE)]
        if not images:
            complaints = [line for line in output.splitlines() if "rror" in line or "arning" in line]
            raise Refusal("not_readable", f"dcm2niix found no image: {'; '.join(complaints[:2]) or 'it says nothing'}")
        if len(images) > 1:
            raise Refusal("ambiguous_series", f"dcm2niix wrote {len(images)} images")
        yield images[0], _public_info(images[0].with_suffix(".json"))


def _without_disqualified(files: Sequence[Path]) -> list[Path]:
    """The files whose headers do not disqualify them; where all are disqualified, the reason of the first."""
    kept, reason = [], None
    for file in files:
        tags = series_tags(file)
        try:
            if tags.get("Modality", "") not in ("", "MR"):
                raise Refusal("not_mr", f"DICOM modality {tags['Modality']}")
            check_statements(tags)
            kept.append(file)
        except Refusal as refusal:
            reason = reason or refusal
    if reason is not None and not kept:
        raise reason
    return kept


def _link(file: Path, link: Path) -> None:
    try:
        link.symlink_to(file.resolve())
    except OSError:
        shutil.copyfile(file, link)


def _run_dcm2niix(source: Path, target: Path) -> str:
    command = [dcm2niix.bin, "-b", "y", "-ba", "y", "-z", "n", "-f", "%s", "-o", str(target), str(source)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise Refusal("not_readable", f"dcm2niix did not finish in {TIMEOUT_S} s") from error
    return (done.stdout + done.stderr).replace(str(source), "")


def _public_info(sidecar: Path) -> dict[str, str]:
    if not sidecar.is_file():
        return {}
    fields = json.loads(sidecar.read_text(errors="replace"))
    return {name: str(fields[name]) for name in PUBLIC_FIELDS if name in fields}
