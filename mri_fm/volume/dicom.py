"""DICOM series: grouping files, and conversion by dcm2niix, which knows the vendors' dialects."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import dcm2niix
import pydicom

from mri_fm.volume.refusal import Refusal

PREAMBLE = 128
TIMEOUT_S = 600
TAGS = ["SeriesInstanceUID", "PatientID", "Modality", "SeriesDescription", "ProtocolName"]
PUBLIC_FIELDS = ("SeriesDescription", "ProtocolName", "SequenceName", "ScanningSequence", "PulseSequenceName")


def is_dicom(path: Path) -> bool:
    """Whether a file starts as DICOM part 10 says: 128 bytes, then "DICM"."""
    with path.open("rb") as stream:
        return stream.read(PREAMBLE + 4)[PREAMBLE:] == b"DICM"


def series_tags(path: Path) -> dict[str, str]:
    """The few header fields (`TAGS`) that tell series, person and modality apart; {} where the header cannot be read."""
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=TAGS)
        return {tag: str(header.get(tag, "") or "") for tag in TAGS}
    except Exception:  # any of pydicom's many; the conversion then says what is wrong
        return {}


@contextmanager
def convert_series(files: Sequence[Path]) -> Iterator[tuple[Path, dict[str, str]]]:
    """Convert the files of one series to one NIfTI in a temporary folder.

    Yields:
        The NIfTI file, and the header fields of `PUBLIC_FIELDS` that dcm2niix found.

    Raises:
        Refusal: not_mr, not_readable or ambiguous_series.
    """
    modality = series_tags(files[0]).get("Modality", "")
    if modality not in ("", "MR"):
        raise Refusal("not_mr", f"DICOM modality {modality}")
    with tempfile.TemporaryDirectory(prefix="series-") as folder:
        source, target = Path(folder, "in"), Path(folder, "out")
        source.mkdir()
        target.mkdir()
        for number, file in enumerate(files):
            _link(file, source / f"{number:06d}.dcm")
        message = _run_dcm2niix(source, target)
        images = sorted(target.glob("*.nii"))
        if not images:
            raise Refusal("not_readable", f"dcm2niix found no image: {message}")
        if len(images) > 1:
            raise Refusal("ambiguous_series", f"dcm2niix wrote {len(images)} images")
        yield images[0], _public_info(images[0].with_suffix(".json"))


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
    lines = [line for line in (done.stdout + done.stderr).splitlines() if "rror" in line or "arning" in line]
    return "; ".join(line.replace(str(source), "") for line in lines[:2]) or f"exit code {done.returncode}"


def _public_info(sidecar: Path) -> dict[str, str]:
    if not sidecar.is_file():
        return {}
    fields = json.loads(sidecar.read_text(errors="replace"))
    return {name: str(fields[name]) for name in PUBLIC_FIELDS if name in fields}
