"""The archive against readers that we did not write."""

from pathlib import Path

import numpy as np
import ome_zarr.io
import ome_zarr.reader
import ome_zarr_models
import pyarrow.parquet as pq
import zarr
from hypothesis import given
from hypothesis import strategies as st

from mri_fm.volume.canonical import canonicalise
from mri_fm.volume.read import read_volume
from preprocessing.archive import ROOT, pyramid, write_image


def test_models_and_reader_accept_every_image(corpus: Path) -> None:
    for key in pq.read_table(corpus / "manifest.parquet")["key"].to_pylist():
        group = zarr.open_group(corpus / "volumes.zarr" / key, mode="r")
        image = ome_zarr_models.open_ome_zarr(group)
        assert image.attributes.ome.version == "0.5"
        assert len(image.attributes.ome.multiscales[0].datasets) >= 2
        location = ome_zarr.io.parse_url(corpus / "volumes.zarr" / key, mode="r")
        (node,) = ome_zarr.reader.Reader(location)()
        assert node.data[0].shape == group["0"].shape
        assert [axis["name"] for axis in node.metadata["axes"]] == ["z", "y", "x"]


def test_an_image_is_its_source_uncropped(corpus: Path) -> None:
    labels = pq.read_table(corpus / "private/ledger.parquet").to_pylist()
    row = next(r for r in labels if r["source_path"] == "scan5.nii.gz")
    volume = read_volume(corpus.parent / "raw" / "scan5.nii.gz")
    group = zarr.open_group(corpus / "volumes.zarr" / row["key"], mode="r")
    facts = group.attrs["mri_fm"]
    assert facts["source_orientation"] == "PSR"
    canonical = canonicalise(volume)
    assert np.array_equal(group["0"][:], canonical.voxels)
    assert facts["affine"] == canonical.affine.tolist()
    transform = group.attrs["ome"]["multiscales"][0]["datasets"][0]["coordinateTransformations"][0]
    assert transform == {"type": "scale", "scale": [4.0, 5.0, 6.0]}
    back = group["0"][:] * facts["scale"] + facts["offset"]
    assert sorted(np.unique(back)) == sorted(np.unique(volume.array))
    world = np.asarray(facts["affine"]) @ [3, 2, 1, 1]  # x, y, z
    i, j, k = np.rint(np.linalg.inv(volume.affine) @ world)[:3].astype(int)
    assert back[1, 2, 3] == volume.array[i, j, k]
    assert zarr.open_group(corpus / "volumes.zarr", mode="r").metadata.zarr_format == 3
    assert "sharding_indexed" in str(group["0"].metadata.to_dict()["codecs"])


@given(st.tuples(*[st.integers(2, 30)] * 3), st.tuples(*[st.sampled_from([1.0, 2.0, 5.0])] * 3))
def test_levels_cover_the_same_extent(shape: tuple[int, ...], spacing: tuple[float, float, float]) -> None:
    voxels = np.full(shape, 7, np.int16)
    levels = pyramid(voxels, spacing)
    assert len(levels) >= 2
    for level, factors in levels:
        assert level.shape == tuple(-(-n // f) for n, f in zip(shape, factors, strict=True))
        assert (level == 7).all()


def test_thick_slices_are_kept_and_means_are_means() -> None:
    voxels = np.arange(4 * 8 * 8, dtype=np.int16).reshape(4, 8, 8)
    (_, first), (level, second) = pyramid(voxels, (6.0, 1.0, 1.0))[:2]
    assert (first, second) == ([1, 1, 1], [1, 2, 2])
    assert np.array_equal(level, np.rint(voxels.reshape(4, 4, 2, 4, 2).mean(axis=(2, 4))))


def test_coarse_voxels_lie_between_the_fine_ones(tmp_path: Path, corpus: Path) -> None:
    canonical = canonicalise(read_volume(corpus.parent / "raw" / "scan4.nii.gz"))  # 6 mm slices of 4 mm
    write_image(tmp_path / "k", canonical)
    first, second = zarr.open_group(tmp_path / "k", mode="r").attrs["ome"]["multiscales"][0]["datasets"][:2]
    assert [t["type"] for t in first["coordinateTransformations"]] == ["scale"]
    scale, shift = second["coordinateTransformations"]
    assert scale["scale"] == [12.0, 8.0, 8.0]
    assert shift == {"type": "translation", "translation": [3.0, 2.0, 2.0]}


def test_the_group_around_the_images_is_zarrs_own(tmp_path: Path) -> None:
    zarr.create_group(tmp_path / "a.zarr", zarr_format=3)
    assert (tmp_path / "a.zarr/zarr.json").read_bytes() == ROOT
