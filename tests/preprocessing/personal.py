"""Scans with names, birth dates, accession numbers and serial numbers in every place of every format, and a search for them."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import nibabel
import nrrd
import numpy as np
import pyarrow.parquet as pq
import pydicom
import SimpleITK
import zarr
from PIL import Image
from scipy.io import netcdf_file

from tests.corpora import resampled
from tests.volume.series import write_series

SECRETS = ("Zyxwell", "Quorina", "19370214", "1937-02-14", "14.02.1937", "ACC7741903", "SN558QX0042", "MRN0099417")
NOTE = "Zyxwell^Quorina 19370214 ACC7741903 SN558QX0042 MRN0099417"
FOLDER = "Zyxwell^Quorina_19370214"
PEOPLE = ("Zyxwell study/sub-Quorina/ses-19370214/anat/sub-Quorina_ses-19370214_T1w.nii.gz", f"{FOLDER}/ACC7741903")
SAMPLES = Path(nibabel.__file__).parent / "tests" / "data"
HIDDEN = {
    "PatientName": "Zyxwell^Quorina",
    "PatientID": "MRN0099417",
    "PatientBirthDate": "19370214",
    "AccessionNumber": "ACC7741903",
    "DeviceSerialNumber": "SN558QX0042",
    "InstitutionName": "Zyxwell Clinic",
    "OperatorsName": "Quorina",
    "StudyDescription": NOTE,
    "ProtocolName": f"t2 {NOTE}"[:64],
    "SeriesDescription": f"t2 {NOTE}"[:64],
    "StationName": "SN558QX0042",
    "PatientComments": NOTE,
}


def lay_out(raw: Path) -> dict[str, bool]:
    """Write one scan per format; returns for each source path whether it is to be accepted."""
    root = raw / FOLDER
    root.mkdir(parents=True)
    for number, (name, write) in enumerate(WRITERS.items()):
        write(root / name, resampled((6, 6, 6), seed=number))
    write_people(raw)
    refused = {f"{FOLDER}/{name}": False for name in _write_broken(root)}
    return {**{f"{FOLDER}/{name}": True for name in WRITERS}, **refused, **dict.fromkeys(PEOPLE, True)}


def write_people(raw: Path) -> None:
    """A BIDS tree and a DICOM series, whose layouts say who somebody is."""
    _write_bids(raw / "Zyxwell study")
    _write_dicom(raw / FOLDER / "ACC7741903")


def leaks(folder: Path, secrets: tuple[str, ...] = SECRETS) -> list[str]:
    """Where below a folder, private/ left out, a secret or an unkeyed hash of one can be read."""
    hashes = [getattr(hashlib, kind)(s.encode()).hexdigest()[:12] for s in secrets for kind in ("md5", "sha1", "sha256")]
    words = [word.lower() for word in (*secrets, *hashes)]
    forms = {form: word for word in words for form in (word.encode(), word.encode("utf-16-le"))}
    return [f"{word} in {where}" for where, content in _every_byte(folder) for form, word in forms.items() if form in content]


def _every_byte(folder: Path) -> Iterator[tuple[str, bytes]]:
    """(where, bytes in lower case) of every file and of what is packed inside it."""
    for path in folder.rglob("*"):
        name = path.relative_to(folder)
        if name.parts[0] == "private":
            continue
        yield f"the name {name}", str(name).encode().lower()
        if path.is_file():
            unpack = UNPACKERS.get(path.suffix, lambda _: iter(()))
            for content in (path.read_bytes(), *unpack(path)):
                yield str(name), content.lower()
    for array in (p.parent for p in folder.rglob("zarr.json") if json.loads(p.read_bytes())["node_type"] == "array"):
        yield str(array.relative_to(folder)), np.asarray(zarr.open_array(array, mode="r")[:]).tobytes().lower()


def _of_parquet(path: Path) -> Iterator[bytes]:
    table = pq.read_table(path)
    yield repr((table.schema, table.schema.metadata, table.to_pylist())).encode()


def _of_tar(path: Path) -> Iterator[bytes]:
    with tarfile.open(path) as archive:
        for member in archive:
            yield repr(member.get_info()).encode()
            stream = archive.extractfile(member)
            assert stream
            yield stream.read()


def _of_html(path: Path) -> Iterator[bytes]:
    for match in re.finditer(r"data:image/\w+;base64,([A-Za-z0-9+/=]+)", path.read_text()):
        content = base64.b64decode(match[1])
        image = Image.open(io.BytesIO(content))
        yield content + repr(image.info).encode() + image.tobytes()


UNPACKERS: dict[str, Callable[[Path], Iterator[bytes]]] = {".parquet": _of_parquet, ".tar": _of_tar, ".html": _of_html}


def _sidecar(path: Path) -> None:
    path.with_name(path.name.split(".")[0] + ".json").write_text(json.dumps(HIDDEN))


def _nifti(kind: type, path: Path, image: nibabel.Nifti1Image) -> None:
    made = kind(np.asarray(image.dataobj), image.affine)
    made.header["descrip"], made.header["aux_file"], made.header["intent_name"] = NOTE, NOTE[:23], "Zyxwell"
    if "db_name" in made.header:
        made.header["db_name"] = "Quorina"
    made.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", NOTE.encode()))
    made.header.extensions.append(nibabel.nifti1.Nifti1Extension("afni", f"<a>{NOTE}</a>".encode()))
    nibabel.save(made, path)
    _sidecar(path)


def _mgz(path: Path, image: nibabel.Nifti1Image) -> None:
    import gzip

    content = nibabel.MGHImage(np.asarray(image.dataobj), image.affine).to_bytes()
    tag = (3).to_bytes(4, "big") + len(NOTE).to_bytes(8, "big") + NOTE.encode()  # TAG_CMDLINE
    with gzip.open(path, "wb") as stream:
        stream.write(content + tag)


def _minc2(path: Path, image: nibabel.Nifti1Image) -> None:
    array = np.asarray(image.dataobj).transpose(2, 1, 0).astype(np.uint16)
    with h5py.File(path, "w") as file:
        root = file.create_group("minc-2.0")
        data = root.create_dataset("image/0/image", data=array)
        data.attrs["dimorder"], data.attrs["valid_range"] = np.bytes_(b"zspace,yspace,xspace"), [0.0, 65535.0]
        root["image/0/image-min"], root["image/0/image-max"] = 0.0, 65535.0
        for axis, name in enumerate(("xspace", "yspace", "zspace")):
            dimension = root.create_dataset(f"dimensions/{name}", data=0)
            dimension.attrs["length"], dimension.attrs["spacing"] = image.shape[axis], np.bytes_(b"regular__")
            dimension.attrs["start"], dimension.attrs["step"] = image.affine[axis, 3], image.affine[axis, axis]
            dimension.attrs["direction_cosines"] = np.eye(3)[axis]
        for group in ("patient", "study", "acquisition"):
            root.create_dataset(f"info/{group}", data=0).attrs["full_name"] = np.bytes_(NOTE.encode())
        root.attrs["history"] = np.bytes_(NOTE.encode())


def _minc1(path: Path, image: nibabel.Nifti1Image) -> None:
    array = np.asarray(image.dataobj).transpose(2, 1, 0)
    with netcdf_file(path, "w") as file:
        file.history = NOTE
        names = ("zspace", "yspace", "xspace")
        for axis, name in enumerate(names):
            file.createDimension(name, array.shape[axis])
            dimension = file.createVariable(name, "i", ())
            dimension.start, dimension.step, dimension.spacing = image.affine[2 - axis, 3], 6.0, b"regular__"
        voxels = file.createVariable("image", "h", names)
        voxels[:] = array
        voxels.signtype, voxels.valid_range = b"signed__", np.array([0.0, 32767.0])
        for name, value in (("image-min", 0.0), ("image-max", 32767.0)):
            file.createVariable(name, "d", ())[...] = value
        file.createVariable("patient", "i", ()).full_name = NOTE


def _afni(path: Path, image: nibabel.Nifti1Image) -> None:
    array = np.asarray(image.dataobj).astype("<i2")
    lps = np.diag([-1, -1, 1, 1]) @ image.affine
    numbers = {
        "DATASET_RANK": [3, 1], "DATASET_DIMENSIONS": [*array.shape, 0, 0], "TYPESTRING": "3DIM_HEAD_ANAT",
        "SCENE_DATA": [0, 2, 0], "ORIENT_SPECIFIC": [1, 2, 4], "ORIGIN": list(lps[:3, 3]), "DELTA": list(np.diag(lps)[:3]),
        "BRICK_TYPES": [1], "BRICK_FLOAT_FACS": [0.0], "BRICK_STATS": [0.0, float(array.max())],
        "IJK_TO_DICOM_REAL": list(lps[:3].ravel()), "BYTEORDER_STRING": "LSB_FIRST", "HISTORY_NOTE": NOTE,
        "IDCODE_STRING": "ACC7741903",
    }  # fmt: skip
    path.write_text("".join(_afni_attribute(name, value) for name, value in numbers.items()))
    path.with_suffix(".BRIK").write_bytes(array.tobytes(order="F"))


def _afni_attribute(name: str, value: object) -> str:
    if isinstance(value, str):
        return f"\ntype = string-attribute\nname = {name}\ncount = {len(value) + 1}\n'{value}~\n"
    assert isinstance(value, list)
    kind = "float" if any(isinstance(v, float) for v in value) else "integer"
    return f"\ntype = {kind}-attribute\nname = {name}\ncount = {len(value)}\n {' '.join(str(v) for v in value)}\n"


def _nrrd(path: Path, image: nibabel.Nifti1Image) -> None:
    header = {
        "space": "right-anterior-superior",
        "space directions": image.affine[:3, :3].T,
        "space origin": image.affine[:3, 3],
        "content": NOTE,
        "PatientName": "Zyxwell^Quorina",
        "acquisition": NOTE,
    }
    nrrd.write(str(path), np.asarray(image.dataobj), header, custom_field_map={"acquisition": "string"})


def _itk(path: Path, image: nibabel.Nifti1Image) -> None:
    made = SimpleITK.GetImageFromArray(np.asarray(image.dataobj).transpose(2, 1, 0))
    made.SetSpacing(tuple(float(step) for step in np.diag(image.affine)[:3]))
    for field, value in HIDDEN.items():
        made.SetMetaData(field, value)
    SimpleITK.WriteImage(made, str(path))


def _mif(path: Path, image: nibabel.Nifti1Image) -> None:
    array = np.asarray(image.dataobj).astype("<i2")
    lines = [
        "mrtrix image", f"dim: {','.join(map(str, array.shape))}", "vox: 6,6,6", "layout: +0,+1,+2", "datatype: Int16LE",
        *(f"transform: {','.join(map(str, row))}" for row in np.column_stack([np.eye(3), image.affine[:3, 3]])),
        f"comments: {NOTE}", f"command_history: mrconvert {FOLDER}",
    ]  # fmt: skip
    start = 1024
    head = "\n".join([*lines, f"file: . {start}", "END\n"]).encode()
    path.write_bytes(head.ljust(start, b"\0") + array.tobytes(order="F"))


WRITERS: dict[str, Callable[[Path, nibabel.Nifti1Image], None]] = {
    "Zyxwell_T1.nii.gz": lambda path, image: _nifti(nibabel.Nifti1Image, path, image),
    "Zyxwell_n2.nii": lambda path, image: _nifti(nibabel.Nifti2Image, path, image),
    "Quorina_pair.hdr": lambda path, image: _nifti(nibabel.Nifti1Pair, path, image),
    "Quorina.mgz": _mgz,
    "ACC7741903.mnc": _minc2,
    "minc1_MRN0099417.mnc": _minc1,
    "Zyxwell+orig.HEAD": _afni,
    "SN558QX0042.nrrd": _nrrd,
    "14.02.1937.mha": _itk,
    "Zyxwell_19370214.mif": _mif,
}


def _write_bids(root: Path) -> None:
    folder = root / "sub-Quorina/ses-19370214/anat"
    folder.mkdir(parents=True)
    _nifti(nibabel.Nifti1Image, folder / "sub-Quorina_ses-19370214_T1w.nii.gz", resampled((6, 6, 6), seed=90))
    (root / "dataset_description.json").write_text(json.dumps({"Name": "Zyxwell study", "Authors": ["Quorina"]}))
    (root / "participants.tsv").write_text(
        "participant_id\tname\tbirth_date\tvisit\tscanner\tage\n"
        "sub-Quorina\tZyxwell\t1937-02-14\t14.02.1937\tSN558QX0042\t61\n"
        "sub-other\tRoe\t1950-01-01\t1.1.2001\tSN558QX0043\t62\n"
    )


def _write_dicom(folder: Path) -> None:
    voxels = np.asarray(resampled((5, 5, 4), seed=91).dataobj).transpose(2, 1, 0).astype(np.uint16)
    for path in write_series(folder, voxels):
        data = pydicom.dcmread(path)
        for field, value in HIDDEN.items():
            setattr(data, field, value)
        data.add_new(0x00091010, "LO", NOTE)
        data.save_as(path)
        path.rename(path.with_name(f"Zyxwell.{path.name}"))


def _write_broken(root: Path) -> list[str]:
    """Inputs whose refusals have headers and names to quote."""
    (root / "Zyxwell_cut.nii.gz").write_bytes((root / "Zyxwell_T1.nii.gz").read_bytes()[:9000])
    (root / f"{NOTE}.bin").write_text(NOTE)
    shutil.copy(SAMPLES / "phantom_EPI_asc_CLEAR_2_1.REC", root / "Quorina.REC")
    text = (SAMPLES / "phantom_EPI_asc_CLEAR_2_1.PAR").read_text()
    (root / "Quorina.PAR").write_text(re.sub(r"(Patient name +: +).*", rf"\1{NOTE}", text))
    return ["Zyxwell_cut.nii.gz", f"{NOTE}.bin", "Quorina.PAR"]
