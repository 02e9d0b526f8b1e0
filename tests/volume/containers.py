"""One scan written in every format that is read, in many of the ways that each allows."""

from __future__ import annotations

import bz2
import gzip
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import nibabel
import nrrd
import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy.io import netcdf_file

Writer = Callable[[Path, NDArray[Any], NDArray[np.float64]], Path]
LPS = np.diag([-1.0, -1.0, 1.0])


def _split(affine: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Directions (one column per axis), spacing and origin."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    return affine[:3, :3] / spacing, spacing, affine[:3, 3]


def nifti(name: str, kind: type = nibabel.Nifti1Image, endian: str = "<", only: str = "", slope: float = 1.0) -> Writer:
    """`only`: "sform" or "qform" for the only code that is set, "micron" or "meter" for a unit, "4d" for an axis of one."""

    def write(folder: Path, array: NDArray[Any], affine: NDArray[np.float64]) -> Path:
        scale = {"micron": 1e3, "meter": 1e-3}.get(only, 1.0)
        matrix = np.diag([scale, scale, scale, 1]) @ affine
        header = kind.header_class(endianness=endian)
        header.set_data_dtype(array.dtype)
        image = kind(array[..., None] if only == "4d" else array, matrix, header)
        image.header.set_xyzt_units(only if scale != 1 else "mm")
        image.set_sform(matrix, 0 if only == "qform" else 1)
        image.set_qform(matrix, 0 if only == "sform" else 1)
        if slope != 1.0:
            image = kind(np.rint(array / slope).astype(array.dtype), matrix, image.header)
            image.header.set_slope_inter(slope, 0)
        nibabel.save(image, folder / name)
        return folder / name

    return write


def renamed(writer: Writer, name: str, change: Callable[[bytes], bytes] = bytes) -> Writer:
    """The file of another writer, its content changed, under another name."""

    def write(folder: Path, array: NDArray[Any], affine: NDArray[np.float64]) -> Path:
        original = writer(folder, array, affine)
        content = change(original.read_bytes())
        original.unlink()
        (folder / name).write_bytes(content)
        return folder / name

    return write


def mgh(name: str) -> Writer:
    def write(folder: Path, array: NDArray[Any], affine: NDArray[np.float64]) -> Path:
        nibabel.save(nibabel.MGHImage(array, affine), folder / name)
        return folder / name

    return write


def nrrd_file(
    name: str, encoding: str, space: str = "left-posterior-superior", endian: str = "little", unit: str = "mm"
) -> Writer:
    def write(folder: Path, array: NDArray[Any], affine: NDArray[np.float64]) -> Path:
        to_space = {"left-posterior-superior": LPS, "RAS": np.eye(3), "left-anterior-superior": np.diag([-1.0, 1, 1])}[space]
        scale = {"mm": 1.0, "um": 1e3}[unit]
        header = {"space": space, "space directions": (to_space @ affine[:3, :3] * scale).T, "encoding": encoding,
                  "space origin": to_space @ affine[:3, 3] * scale, "space units": [unit] * 3, "endian": endian}  # fmt: skip
        stored = array.astype(array.dtype.newbyteorder(">")) if endian == "big" else array
        nrrd.write(str(folder / name), stored, header, detached_header=name.endswith(".nhdr"))
        return folder / name

    return write


def metaimage(name: str, compressed: bool) -> Writer:
    def write(folder: Path, array: NDArray[Any], affine: NDArray[np.float64]) -> Path:
        directions, spacing, origin = _split(affine)
        image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
        image.SetSpacing(spacing.tolist())
        image.SetOrigin((LPS @ origin).tolist())
        image.SetDirection((LPS @ directions).reshape(-1).tolist())
        sitk.WriteImage(image, str(folder / name), compressed)
        return folder / name

    return write


def minc1(folder: Path, array: NDArray[Any], affine: NDArray[np.float64]) -> Path:
    directions, spacing, origin = _split(affine)
    starts = np.linalg.solve(directions, origin)
    low, high = _range(array)
    with netcdf_file(folder / "a.mnc", "w") as file:
        for axis, name in enumerate(("zspace", "yspace", "xspace")):
            file.createDimension(name, array.shape[axis])
            variable = file.createVariable(name, "i", ())
            variable.step, variable.start = float(spacing[axis]), float(starts[axis])
            variable.direction_cosines, variable.spacing = directions[:, axis], "regular__"
        image = file.createVariable("image", array.dtype.newbyteorder(">"), ("zspace", "yspace", "xspace"))
        image[:] = array
        image.signtype, image.valid_range = "signed__", np.array([low, high], float)
        for bound, value in (("image-min", low), ("image-max", high)):
            file.createVariable(bound, "d", ()).data[...] = value
    return folder / "a.mnc"


def minc2(folder: Path, array: NDArray[Any], affine: NDArray[np.float64]) -> Path:
    directions, spacing, origin = _split(affine)
    starts = np.linalg.solve(directions, origin)
    with h5py.File(folder / "a.mnc", "w") as file:
        for axis, name in enumerate(("zspace", "yspace", "xspace")):
            dimension = file.create_dataset(f"minc-2.0/dimensions/{name}", data=0)
            dimension.attrs.update(step=spacing[axis], start=starts[axis], direction_cosines=directions[:, axis],
                                   length=array.shape[axis], spacing=np.bytes_("regular__"))  # fmt: skip
        image = file.create_dataset("minc-2.0/image/0/image", data=array, compression="gzip", chunks=True)
        image.attrs.update(dimorder=np.bytes_("zspace,yspace,xspace"), valid_range=np.array(_range(array), float))
        for bound, value in zip(("image-min", "image-max"), _range(array), strict=True):
            file.create_dataset(f"minc-2.0/image/0/{bound}", data=float(value))
    return folder / "a.mnc"


def _range(array: NDArray[Any]) -> tuple[int, int]:
    return int(array.min()), int(array.max())


def afni(brik: str, endian: str = "<", scale: float = 0.0) -> Writer:
    def write(folder: Path, array: NDArray[Any], affine: NDArray[np.float64]) -> Path:
        real = (np.diag([-1, -1, 1, 1]) @ affine)[:3].reshape(-1)
        numbers: dict[str, tuple[str, Sequence[float]]] = {
            "DATASET_RANK": ("integer", [3, 1]), "DATASET_DIMENSIONS": ("integer", array.shape),
            "BRICK_TYPES": ("integer", [{"int16": 1, "uint8": 0, "float32": 3}[array.dtype.name]]),
            "SCENE_DATA": ("integer", [0, 2, 0]), "BRICK_FLOAT_FACS": ("float", [scale]),
            "IJK_TO_DICOM_REAL": ("float", real), "DELTA": ("float", _split(affine)[1]),
        }  # fmt: skip
        strings = {"TYPESTRING": "3DIM_HEAD_ANAT", "BYTEORDER_STRING": "LSB_FIRST" if endian == "<" else "MSB_FIRST"}
        text = []
        for name, (kind, values) in numbers.items():
            words = " ".join(repr(float(value)) if kind == "float" else str(value) for value in values)
            text.append(f"\ntype = {kind}-attribute\nname = {name}\ncount = {len(values)}\n {words}\n")
        text += [f"\ntype = string-attribute\nname = {n}\ncount = {len(v) + 1}\n'{v}~\n" for n, v in strings.items()]
        (folder / "a+orig.HEAD").write_text("".join(text))
        voxels = (array / scale if scale else array).astype(array.dtype.newbyteorder(endian)).tobytes(order="F")
        (folder / brik).write_bytes(gzip.compress(voxels) if brik.endswith("gz") else voxels)
        return folder / "a+orig.HEAD"

    return write


def mif(name: str, layout: str = "+0,+1,+2", datatype: str = "Int16LE", scaling: str = "") -> Writer:
    """`layout` for three axes; `scaling` is "offset,scale" and the voxels are stored before it."""

    def write(folder: Path, array: NDArray[Any], affine: NDArray[np.float64]) -> Path:
        directions, spacing, origin = _split(affine)
        offset, scale = map(float, scaling.split(",")) if scaling else (0.0, 1.0)
        dtype = np.dtype({"Int16LE": "<i2", "Int16BE": ">i2", "Float32BE": ">f4", "UInt8": "u1"}[datatype])
        axes = [part.strip() for part in layout.split(",")]
        stored = ((array - offset) / scale).astype(dtype)[tuple(slice(None, None, -1 if a[0] == "-" else 1) for a in axes)]
        voxels = stored.transpose(np.argsort([int(a[1:]) for a in axes])).tobytes(order="F")
        rows = "".join(f"transform: {','.join(map(repr, map(float, row)))}\n" for row in np.column_stack([directions, origin]))
        fields = f"dim: {','.join(map(str, array.shape))}\nvox: {','.join(repr(float(s)) for s in spacing)}\nlayout: {layout}\n"
        fields += f"datatype: {datatype}\n{rows}" + (f"scaling: {scaling}\n" if scaling else "")
        if name.endswith(".mih"):
            (folder / "a.dat").write_bytes(voxels)
            (folder / name).write_text(f"mrtrix image\n{fields}file: a.dat\nEND\n")
            return folder / name
        start = 512 + 4 * (len(fields) // 4)
        header = f"mrtrix image\n{fields}file: . {start}\nEND\n".encode().ljust(start, b"\0")
        (folder / name).write_bytes(gzip.compress(header + voxels) if name.endswith(".gz") else header + voxels)
        return folder / name

    return write


WRITERS: dict[str, Writer] = {
    "nifti1": nifti("a.nii"),
    "nifti1 gzip": nifti("a.nii.gz"),
    "nifti1 big-endian": nifti("a.nii", endian=">"),
    "nifti1 gzip named .nii": renamed(nifti("b.nii.gz"), "a.nii"),
    "nifti1 plain named .nii.gz": renamed(nifti("b.nii"), "a.nii.gz"),
    "nifti1 bzip2 named anything": renamed(nifti("b.nii"), "scan", bz2.compress),
    "nifti1 qform alone": nifti("a.nii.gz", only="qform"),
    "nifti1 sform alone": nifti("a.nii.gz", only="sform"),
    "nifti1 in µm": nifti("a.nii", only="micron"),
    "nifti1 in m": nifti("a.nii", only="meter"),
    "nifti1 with a time axis of one": nifti("a.nii", only="4d"),
    "nifti1 scaled": nifti("a.nii.gz", slope=0.1),
    "nifti2": nifti("a.nii.gz", nibabel.Nifti2Image),
    "nifti2 big-endian": nifti("a.nii", nibabel.Nifti2Image, endian=">"),
    "nifti1 pair": nifti("a.hdr", nibabel.Nifti1Pair),
    "nifti2 pair": nifti("a.hdr", nibabel.Nifti2Pair),
    "nifti1 pair gzip": nifti("a.hdr.gz", nibabel.Nifti1Pair),
    "mgh": mgh("a.mgh"),
    "mgz": mgh("a.mgz"),
    "mgz named .mgh": renamed(mgh("b.mgz"), "a.mgh"),
    "minc1": minc1,
    "minc1 gzip": renamed(minc1, "b.mnc.gz", gzip.compress),
    "minc2": minc2,
    "minc2 gzip": renamed(minc2, "b.mnc.gz", gzip.compress),
    "nrrd raw": nrrd_file("a.nrrd", "raw"),
    "nrrd gzip RAS": nrrd_file("a.nrrd", "gzip", "RAS"),
    "nrrd bzip2 LAS": nrrd_file("a.nrrd", "bzip2", "left-anterior-superior"),
    "nrrd ascii": nrrd_file("a.nrrd", "ascii"),
    "nrrd big-endian in µm": nrrd_file("a.nrrd", "raw", endian="big", unit="um"),
    "nhdr raw": nrrd_file("a.nhdr", "raw"),
    "nhdr gzip": nrrd_file("a.nhdr", "gzip"),
    "mha": metaimage("a.mha", False),
    "mha zlib": metaimage("a.mha", True),
    "mhd": metaimage("a.mhd", False),
    "mhd zlib": metaimage("a.mhd", True),
    "afni": afni("a+orig.BRIK"),
    "afni gzip big-endian": afni("a+orig.BRIK.gz", ">"),
    "afni scaled": afni("a+orig.BRIK", scale=0.5),
    "mif": mif("a.mif"),
    "mif gzip": mif("a.mif.gz", "-0,-1,+2"),
    "mif big-endian, slices fastest": mif("a.mif", "+2,-0,+1", "Int16BE"),
    "mif float": mif("a.mif", "-1,+2,-0", "Float32BE"),
    "mif scaled": mif("a.mif", scaling="-20,0.5"),
    "mih": mif("a.mih", "-2,-1,-0"),
}
