"""One file per format. A reader has `recognises(start of the file, inflated)` and `read_header(path) -> Image`."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

from mri_fm.volume.readers import afni, metaimage, mgh, mif, minc, nifti, nrrd, parrec
from mri_fm.volume.readers.image import Image
from mri_fm.volume.refusal import Refusal
from mri_fm.volume.voxels import open_stream, sniff_codec

READERS: tuple[ModuleType, ...] = (nrrd, mif, minc, nifti, parrec, metaimage, afni, mgh)
"""Asked in this order; those with a magic that nothing else can be mistaken for come first."""

FORMATS = "NIfTI, MGZ, MINC, NRRD, MetaImage, AFNI, PAR/REC, MIF"
"""What `READERS` read, for messages."""

START_BYTES = 1024
ECAT_MAGIC = b"MATRIX7"
NAMES_VOXELS = (".nhdr", ".mhd", ".mih")  # headers that may name the file of their voxels
NAMING_LINE = re.compile(rb"^(?:data ?file:|ElementDataFile *=|file *:)[ \t]*(.+?)(?:[ \t]+\d+)?[ \t]*\r?$", re.MULTILINE)


def open_image(path: Path) -> Image:
    """Read the header of an image, whose format its content tells.

    Raises:
        Refusal: as the format's reader; not_mr for ECAT, not_readable where no reader knows the content.
    """
    with open_stream(path, 0, sniff_codec(path)) as stream:
        start = stream.read(START_BYTES)
    if start.startswith(ECAT_MAGIC):
        raise Refusal("not_mr", "ECAT, a format of PET")
    reader = next((reader for reader in READERS if reader.recognises(start)), None)
    if reader is None:
        raise Refusal("not_readable", "no known image format" if start else "an empty file")
    image: Image = reader.read_header(path)
    return image


def named_voxels(path: Path) -> str:
    """The file name, relative to the header's folder, in which a header says that its voxels lie; "" if it names none."""
    with path.open("rb") as stream:
        match = NAMING_LINE.search(stream.read(1 << 16))
    name = match[1].decode("utf-8", "surrogateescape") if match else ""
    return "" if name in (".", "LOCAL", "LIST") else name
