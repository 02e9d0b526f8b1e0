"""What NRRD headers can say beyond `test_containers`."""

from pathlib import Path
from typing import Any

import nrrd
import numpy as np
import pytest

from mri_fm.volume.read import read_volume
from mri_fm.volume.refusal import Refusal

VOXELS = np.random.default_rng(0).integers(0, 100, (4, 3, 2)).astype(np.int16)
SPACE = {"space": "LPS", "space directions": np.diag([2.0, 3, 4]), "space origin": [1, 2, 3]}


def write(path: Path, array: np.ndarray = VOXELS, **fields: Any) -> Path:
    header = SPACE | {name.replace("_", " "): value for name, value in fields.items()}
    nrrd.write(str(path), array, {k: v for k, v in header.items() if v is not None})
    return path


def refusal_of(path: Path) -> str:
    with pytest.raises(Refusal) as refusal:
        read_volume(path)
    return refusal.value.code


def test_an_axis_that_is_not_in_space_and_has_one_entry_is_dropped_wherever_it_stands(tmp_path: Path) -> None:
    directions = np.vstack([[np.nan] * 3, np.diag([2.0, 3, 4])])
    volume = read_volume(write(tmp_path / "a.nrrd", VOXELS[None], space_directions=directions, kinds=["list"] + ["space"] * 3))
    assert np.array_equal(volume.array, VOXELS)
    assert np.array_equal(volume.affine, [[-2, 0, 0, -1], [0, -3, 0, -2], [0, 0, 4, 3], [0, 0, 0, 1]])


def test_several_volumes_are_refused(tmp_path: Path) -> None:
    directions = np.vstack([[np.nan] * 3, np.diag([2.0, 3, 4])])
    series = np.stack([VOXELS, VOXELS + 1])
    assert refusal_of(write(tmp_path / "a.nrrd", series, space_directions=directions)) == "not_3d"
    assert refusal_of(write(tmp_path / "b.nrrd", VOXELS[0], space_directions=np.diag([2.0, 3, 4])[:2])) == "not_3d"


@pytest.mark.parametrize("space", ["scanner-xyz", "3D-right-handed", None])
def test_space_that_is_not_the_patients_gives_no_orientation(tmp_path: Path, space: str | None) -> None:
    more = {"space_directions": None, "space_origin": None, "spacings": [2.0, 3, 4]} if space is None else {}
    assert refusal_of(write(tmp_path / "a.nrrd", space=space, **more)) == "no_orientation"


def test_skips(tmp_path: Path) -> None:
    (tmp_path / "a.raw").write_bytes(b"one line\nand another\nxyz" + VOXELS.tobytes(order="F"))
    head = write(tmp_path / "b.nrrd", encoding="raw").read_bytes().split(b"\n\n")[0].decode()
    for skips in ("line skip: 2\nbyte skip: 3", "byte skip: -1"):
        (tmp_path / "a.nhdr").write_text(f"{head}\n{skips}\ndata file: a.raw\n")
        assert np.array_equal(read_volume(tmp_path / "a.nhdr").array, VOXELS)


@pytest.mark.parametrize("name", ["/etc/passwd", "../a.raw", "LIST", "slice%02d.raw 1 4 1"])
def test_voxels_elsewhere_are_not_followed(tmp_path: Path, name: str) -> None:
    head = write(tmp_path / "b.nrrd", encoding="raw").read_bytes().split(b"\n\n")[0].decode()
    (tmp_path / "a.nhdr").write_text(f"{head}\ndata file: {name}\n")
    assert refusal_of(tmp_path / "a.nhdr") == "not_readable"


def test_cut_short(tmp_path: Path) -> None:
    for encoding in ("raw", "gzip", "bzip2", "ascii"):
        content = write(tmp_path / "a.nrrd", encoding=encoding).read_bytes()
        (tmp_path / "cut.nrrd").write_bytes(content[:-9])
        assert refusal_of(tmp_path / "cut.nrrd") == "truncated", encoding
