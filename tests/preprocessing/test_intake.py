"""A tree with an input for every refusal code, made from a real scan, and the ledger that a build makes of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from mri_fm.volume.refusal import CODES
from preprocessing.build import Spec, build
from preprocessing.place import open_place
from preprocessing.tables import read_ledger
from tests.corpora import resampled
from tests.volume.containers import mif, nrrd_file
from tests.volume.series import write_series

SPACING = (6.0, 6.0, 6.0)
AFFINE = np.diag([*SPACING, 1.0])


@cache
def scan(seed: int = 0) -> NDArray[np.int16]:
    return np.asarray(resampled(SPACING, seed=seed).dataobj)


def save(array: NDArray[Any], affine: NDArray[np.float64] = AFFINE, **fields: int) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        image = nibabel.Nifti1Image(array, affine)
        for name, value in fields.items():
            image.header[name] = value
        nibabel.save(image, path)

    return write


def head(array: NDArray[Any], sidecar: dict[str, object]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        save(array)(path)
        path.with_suffix("").with_suffix(".json").write_text(json.dumps(sidecar))

    return write


def cut(path: Path) -> None:
    save(scan(9))(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def without_orientation(path: Path) -> None:
    image = nibabel.Nifti1Image(scan(9), None)
    image.set_qform(None, 0)
    image.set_sform(None, 0)
    nibabel.save(image, path)


def sheared() -> NDArray[np.float64]:
    affine = AFFINE.copy()
    affine[0, 1] = 2.0  # 18°
    return affine


def with_hole() -> NDArray[np.float32]:
    array = scan(9).astype(np.float32)
    array[tuple(n // 2 for n in array.shape)] = np.nan
    return array


def two_sizes(path: Path) -> None:
    planes = scan(9).T.astype(np.uint16)
    write_series(path, planes, in_plane=6, spacing=6, SeriesInstanceUID="1.2.3")
    write_series(path, planes[:, :20], in_plane=6, spacing=6, SeriesInstanceUID="1.2.3", name="other{}".format)


def one_lost(path: Path) -> None:
    write_series(path, scan(9).T.astype(np.uint16), in_plane=6, spacing=6)[15].unlink()


def series(**tags: Any) -> Callable[[Path], None]:
    return lambda path: write_series(path, scan(9).T.astype(np.uint16), in_plane=6, spacing=6, **tags) and None


def huge(path: Path) -> None:
    save(scan(9))(path)
    content = bytearray(path.read_bytes())
    content[42:48] = np.array([3000, 3000, 3000], "<i2").tobytes()
    path.write_bytes(content)


def specks() -> NDArray[np.int16]:
    array = np.full(scan().shape, 7, np.int16)
    array[::7, ::7, ::7] += np.random.default_rng(0).integers(50, 500, array[::7, ::7, ::7].shape, np.int16)
    return array


OBLIQUE = np.array([[5.6, -2.1, 0, 0], [2.1, 5.6, 0, 0], [0, 0, 6.0, 0], [0, 0, 0, 1]])
HOUNSFIELD = np.where(scan(9) > 20, scan(9) // 3, -1000 + scan(3) % 7).astype(np.int16)

TREE: dict[str, tuple[str, Callable[[Path], object]]] = {
    "01_T1.nii.gz": ("", save(scan())),
    "02_float_T1.nii.gz": ("", save(scan(1).astype(np.float32) / 7)),
    "03_oblique_bold.nii.gz": (
        "",
        save(scan(2), np.array([[5.6, -2.1, 0, 0], [2.1, 5.6, 0, 0], [0, 0, 6.0, 0], [0, 0, 0, 1]])),
    ),
    "04_TOF.nrrd": ("", lambda path: nrrd_file(path.name, "gzip")(path.parent, scan(3), AFFINE)),
    "05_nan_outside.nii": ("", save(np.where(scan(4) > 0, scan(4), np.nan).astype(np.float32))),
    "06_mask_by_name_only.nii": ("", save(scan(5))),
    "copy.mif": ("duplicate", lambda path: mif(path.name, "-0,+2,-1")(path.parent, scan(), AFFINE)),
    "abdom_train/00001.nii.gz": ("excluded_by_rule", save(scan(6))),
    "ambiguous": ("ambiguous_series", two_sizes),
    "constant.nii": ("constant", save(np.full(scan().shape, 5, np.int16))),
    "cut.nii.gz": ("truncated", cut),
    "dog": ("non_human", series(PatientSpeciesDescription="Canis lupus")),
    "few.nii": ("too_few_slices", save(scan()[:, :, :3])),
    "hole.nii": ("non_finite", save(with_hole())),
    "huge.nii": ("too_large", huge),
    "labels.nii": ("label", save((scan() > 90).astype(np.int16) + (scan() > 150))),
    "nowhere.nii": ("no_orientation", without_orientation),
    "paper.pdf": ("not_readable", lambda path: path.write_bytes(b"%PDF-1.4 x")),
    "ct.nii": ("not_mr", save(HOUNSFIELD)),
    "scout": ("localizer", series(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])),
    "series_4d.nii.gz": ("not_3d", save(np.stack([scan(7), scan(8)], -1))),
    "sheared.nii": ("sheared", save(scan(9), sheared(), qform_code=0, sform_code=1)),
    "small.nii": ("field_of_view", save(scan(9), np.diag([0.5, 0.5, 0.5, 1]))),
    "specks.nii": ("no_foreground", save(specks())),
    "sub-1_T2map.nii": ("derived_map", save(scan(9))),
    "fieldmap.nii.gz": ("derived_map", head(scan(9), {"Units": "Hz"})),
    "thick.nii": ("spacing", save(scan(9), np.diag([6.0, 6.0, 9.0, 1]))),
    "slice_lost": ("uneven_slices", one_lost),
    "zstat.nii": ("not_mr", save(scan(9).astype(np.float32) / 50, intent_code=5)),
}


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("decisions") / "raw"
    for name, (_, write) in TREE.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write(folder / name)
    return folder


def decided(raw: Path, out: Path, spec: Spec) -> dict[str, str]:
    build(raw, out, spec)
    return {row["source_path"]: row["code"] for row in read_ledger(open_place(out))}


def test_every_input_gets_its_decision(raw: Path, tmp_path: Path) -> None:
    assert decided(raw, tmp_path / "corpus", Spec()) == {name: code for name, (code, _) in TREE.items()}


def test_the_manifest_counts_repaired_voxels(raw: Path, tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    for name in ("01_T1.nii.gz", "05_nan_outside.nii"):
        (tmp_path / "raw" / name).symlink_to(raw / name)
    build(tmp_path / "raw", tmp_path / "corpus", Spec())
    rows = pq.read_table(tmp_path / "corpus" / "manifest.parquet").to_pylist()
    assert sorted(row["repaired"] for row in rows) == [0, int((scan(4) == 0).sum())]


def test_every_code_has_an_input() -> None:
    elsewhere = {"reader_crashed", "no_brain_mask"}  # test_decisions.py kills a reader, test_build.py lacks a mask
    assert {code for code, _ in TREE.values()} == {"", *CODES} - elsewhere


def test_a_series_gives_one_volume_on_request(raw: Path, tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/series_4d.nii.gz").symlink_to(raw / "series_4d.nii.gz")
    assert decided(tmp_path / "raw", tmp_path / "corpus", Spec(reference_volume=True)) == {"series_4d.nii.gz": ""}
