"""What counts as an input, and how it is named."""

import os
import re
from pathlib import Path

import numpy as np
import pytest

from mri_fm.errors import UserError
from mri_fm.volume.discover import find_inputs, fingerprint, image_stem, is_text, list_files
from tests.volume.series import write_series


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def names(root: Path) -> list[str]:
    return [item.source_path for item in find_inputs(root, list_files(root))]


def test_companions_tables_and_text_are_no_inputs(tmp_path: Path) -> None:
    touch(tmp_path, "a.hdr", "a.img", "b+orig.HEAD", "b+orig.BRIK.gz", "c.PAR", "c.REC", "d.nii.gz", "d.json",
          "d.bval", "d.bvec", "labels.csv", "participants.tsv", "README", "LICENSE.txt", "notes.md", "paper.pdf",
          "sub/broken.nii", "noname")  # fmt: skip
    assert names(tmp_path) == ["a.hdr", "b+orig.HEAD", "c.PAR", "d.nii.gz", "noname", "paper.pdf", "sub/broken.nii"]


def test_voxels_without_their_header_are_inputs(tmp_path: Path) -> None:
    touch(tmp_path, "a.img", "b.REC", "c.BRIK")
    assert names(tmp_path) == ["a.img", "b.REC", "c.BRIK"]


def test_voxels_that_a_header_names_belong_to_it(tmp_path: Path) -> None:
    touch(tmp_path, "v/data.raw", "b.zraw", "c.dat", "alone.raw")
    (tmp_path / "a.nhdr").write_text("NRRD0004\ntype: short\ndata file: v/data.raw\n")
    (tmp_path / "b.mhd").write_text("ObjectType = Image\nElementDataFile = b.zraw\n")
    (tmp_path / "c.mih").write_text("mrtrix image\nfile: c.dat 0\nEND\n")
    found = {item.source_path: item.companions for item in find_inputs(tmp_path, list_files(tmp_path))}
    assert found == {"a.nhdr": ("v/data.raw",), "alone.raw": (), "b.mhd": ("b.zraw",), "c.mih": ("c.dat",)}


def test_names_of_dicom_series(tmp_path: Path) -> None:
    planes = np.zeros((3, 4, 4), np.uint16)
    write_series(tmp_path / "alone", planes)
    write_series(tmp_path / "single", planes[:1])
    write_series(tmp_path / "shared", planes)
    touch(tmp_path, "shared/other.nii", "alone/README", "alone/DICOMDIR")
    for file in write_series(tmp_path / "two", planes[:2]):
        file.rename(file.with_name(f"first-{file.name}"))
    write_series(tmp_path / "two", planes[:2])
    found = {item.source_path: item for item in find_inputs(tmp_path, list_files(tmp_path))}
    assert sorted(found) == ["alone", "shared/other.nii", "shared/slice000.dcm", "single/slice000.dcm",
                             "two/first-slice000.dcm", "two/slice000.dcm"]  # fmt: skip
    assert found["alone"].files == tuple(f"alone/slice{i:03d}.dcm" for i in range(3))
    assert found["alone"].person == "P1"
    assert found["two/slice000.dcm"].files == ("two/slice000.dcm", "two/slice001.dcm")


def test_links_are_followed_and_circles_are_not(tmp_path: Path) -> None:
    touch(tmp_path, "a/x.nii")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    (tmp_path / "b").symlink_to(tmp_path / "a")
    (tmp_path / "gone.nii").symlink_to(tmp_path / "nowhere")
    assert names(tmp_path) == ["a/x.nii", "b/x.nii", "gone.nii"]


def test_fingerprint_sees_size_and_time(tmp_path: Path) -> None:
    touch(tmp_path, "a.nii")
    files = list_files(tmp_path)
    (item,) = find_inputs(tmp_path, files)
    first = fingerprint(item, files)
    assert first == fingerprint(item, list_files(tmp_path))
    (tmp_path / "a.nii").write_bytes(b"xy")
    assert first != fingerprint(item, list_files(tmp_path))


def test_fingerprint_sees_the_voxels_of_a_header(tmp_path: Path) -> None:
    touch(tmp_path, "a.HDR")
    alone = list_files(tmp_path)
    touch(tmp_path, "a.img", "A.img.gz")
    both = list_files(tmp_path)
    (tmp_path / "a.img").write_bytes(b"other")
    changed = list_files(tmp_path)
    items = [find_inputs(tmp_path, files) for files in (alone, both, changed)]
    assert [[i.source_path for i in found] for found in items] == [["a.HDR"]] * 3
    assert len({fingerprint(found[0], files) for found, files in zip(items, (alone, both, changed), strict=True)}) == 3


def test_fingerprint_sees_the_sidecar_and_the_b_values(tmp_path: Path) -> None:
    marks = []
    for name in ("a.nii.gz", "a.json", "a.bval", "b.json"):
        touch(tmp_path, name)
        files = list_files(tmp_path)
        (item,) = find_inputs(tmp_path, files)
        marks.append(fingerprint(item, files))
    assert len(set(marks)) == 3
    assert marks[-1] == marks[-2]  # another image's


def test_a_pipe_is_an_input_that_nobody_waits_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "slice001")
    assert list_files(tmp_path) == {"slice001": (-1, 0)}
    assert names(tmp_path) == ["slice001"]


def test_names_that_are_no_utf8_become_valid_text(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.nii")).write_bytes(b"x")
    (item,) = find_inputs(tmp_path, list_files(tmp_path))
    assert item.source_path == "caf\\xe9.nii"
    assert (tmp_path / item.files[0]).is_file()


def test_a_dicom_file_may_be_called_img(tmp_path: Path) -> None:
    (file,) = write_series(tmp_path, np.zeros((1, 4, 4), np.uint16))
    file.rename(tmp_path / "a.img")
    (item,) = find_inputs(tmp_path, list_files(tmp_path))
    assert item.series


def test_a_folder_that_may_not_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a.nii", "closed/b.nii")
    listed = os.scandir

    def scandir(folder: Path) -> object:
        if Path(folder).name == "closed":
            raise PermissionError(13, "Permission denied")
        return listed(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(UserError, match=r"closed cannot be listed \(Permission denied\)"):
        list_files(tmp_path)


@pytest.mark.parametrize(
    ("path", "stem"), [("a/b_T1w.nii.gz", "a/b_T1w"), ("a.b/c", "a.b/c"), ("x.mnc", "x"), ("IXI-0.1.nii", "IXI-0.1")]
)
def test_image_stem(path: str, stem: str) -> None:
    assert image_stem(path) == stem
    assert not is_text(path)


def test_the_library_finds_scans_without_the_corpus_build() -> None:
    """`mri_fm` is the lower of the two packages."""
    modules = (Path(__file__).parents[2] / "mri_fm").rglob("*.py")
    assert [path for path in modules if re.search(r"^ *(from|import) preprocessing\b", path.read_text(), re.MULTILINE)] == []
