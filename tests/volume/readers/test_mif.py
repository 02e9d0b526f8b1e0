"""MIF against its definition: the place of a voxel in the file, computed voxel by voxel."""

import contextlib
import gzip
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mri_fm.volume.read import read_volume
from mri_fm.volume.refusal import Refusal

TRANSFORM = "transform: 0,1,0,-4\ntransform: 1,0,0,5\ntransform: 0,0,1,6\n"
TYPES = {
    "Int8": "i1",
    "UInt8": "u1",
    "Int16LE": "<i2",
    "UInt16BE": ">u2",
    "Int32BE": ">i4",
    "Float32LE": "<f4",
    "Float64BE": ">f8",
}


def refusal_of(path: Path) -> str:
    with pytest.raises(Refusal) as refusal:
        read_volume(path)
    return refusal.value.code


def header(
    dim: str = "4,3,2", layout: str = "+0,+1,+2", datatype: str = "Int16LE", more: str = TRANSFORM, file: str = ". 400"
) -> bytes:
    text = f"mrtrix image\ndim: {dim}\nvox: 2,3,4\nlayout: {layout}\ndatatype: {datatype}\n{more}file: {file}\nEND\n"
    return text.encode().ljust(400, b"\0")


def ordered(values: np.ndarray, ranks: tuple[int, ...], signs: tuple[bool, ...]) -> list[float]:
    """The voxels in the order of the file: the stride of an axis is the product of the sizes of lower rank."""
    shape = values.shape
    out = [0.0] * values.size
    for index in np.ndindex(shape):
        place = 0
        for axis, position in enumerate(index):
            stride = int(np.prod([n for other, n in enumerate(shape) if ranks[other] < ranks[axis]]))
            place += stride * (shape[axis] - 1 - position if signs[axis] else position)
        out[place] = values[index]
    return out


@given(
    shape=st.tuples(*[st.integers(1, 5)] * 3),
    ranks=st.permutations(range(3)).map(tuple),
    signs=st.tuples(*[st.booleans()] * 3),
    datatype=st.sampled_from(list(TYPES)),
    singleton=st.booleans(),
    gz=st.booleans(),
)
def test_strides_and_types(
    shape: tuple[int, int, int], ranks: tuple[int, ...], signs: tuple[bool, ...], datatype: str, singleton: bool, gz: bool
) -> None:
    values = np.random.default_rng(0).integers(0, 100, shape)
    layout = ",".join(("-" if sign else "+") + str(rank) for rank, sign in zip(ranks, signs, strict=True))
    start = header(",".join(map(str, shape)) + ",1" * singleton, layout + ",+3" * singleton, datatype)
    content = start + np.array(ordered(values, ranks, signs)).astype(TYPES[datatype]).tobytes()
    with TemporaryDirectory() as folder:
        path = Path(folder, "a.mif.gz" if gz else "a.mif")
        path.write_bytes(gzip.compress(content) if gz else content)
        volume = read_volume(path)
    assert np.array_equal(volume.array, values)
    assert np.array_equal(volume.affine, [[0, 3, 0, -4], [2, 0, 0, 5], [0, 0, 4, 6], [0, 0, 0, 1]])


def test_bits_lie_highest_first(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 2, (4, 3, 2))
    (tmp_path / "a.mif").write_bytes(header(datatype="Bit") + np.packbits(values.reshape(-1, order="F")).tobytes())
    assert np.array_equal(read_volume(tmp_path / "a.mif").array, values)


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (header() + bytes(47), "truncated"),
        (header("4,3,2,2", "+0,+1,+2,+3") + bytes(96), "not_3d"),
        (header(datatype="CFloat32LE") + bytes(192), "not_3d"),
        (header("4,3", "+0,+1") + bytes(24), "not_3d"),
        (header(more="") + bytes(48), "no_orientation"),
        (header(layout="+0,+1,+1") + bytes(48), "not_readable"),
        (header(datatype="Int12") + bytes(48), "not_readable"),
        (header("4000,4000,60") + bytes(48), "truncated"),
        (header(file="../secret 0") + bytes(48), "not_readable"),
        (b"mrtrix image\ndim: 4,3,2\n", "truncated"),
    ],
)
def test_refusals(tmp_path: Path, content: bytes, code: str) -> None:
    (tmp_path / "a.mif").write_bytes(content)
    assert refusal_of(tmp_path / "a.mif") == code


@given(position=st.integers(12, 250), piece=st.binary(max_size=12))
def test_any_changed_header_is_read_or_refused(position: int, piece: bytes) -> None:
    content = header() + bytes(range(48))
    with TemporaryDirectory() as folder:
        Path(folder, "a.mif").write_bytes(content[:position] + piece + content[position + len(piece) :])
        with contextlib.suppress(Refusal):
            assert read_volume(Path(folder, "a.mif")).array.ndim == 3
