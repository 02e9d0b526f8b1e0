"""DICOM series: a real conversion by dcm2niix of files that are written here from a scan, in every way that vendors do."""

from functools import cache
from pathlib import Path

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.data import get_testdata_file
from pydicom.uid import ImplicitVRLittleEndian

from mri_fm.volume.canonical import canonicalise
from mri_fm.volume.dicom import is_dicom, series_tags
from mri_fm.volume.discover import find_inputs, list_files
from mri_fm.volume.read import Volume, read_series
from mri_fm.volume.refusal import Refusal
from tests.corpora import resampled
from tests.volume.series import (
    VENDORS,
    affine_of,
    by_gdcm,
    run_length,
    take_pixels,
    write_enhanced,
    write_mosaic,
    write_philips,
    write_series,
)

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


@cache
def scan() -> NDArray[np.uint16]:
    """Slices of a brain, 4 mm apart, towards superior; rows towards posterior, columns towards left."""
    return np.asarray(resampled((4, 4, 4)).dataobj).T[:, ::-1, ::-1].astype(np.uint16)


def truth(voxels: NDArray[np.uint16]) -> str:
    return canonicalise(Volume(voxels.transpose(2, 1, 0), affine_of(4.0, 4.0), "uint16")).content_hash()


def hash_of(files: list[Path]) -> str:
    return canonicalise(read_series(files)).content_hash()


def refusal_of(files: list[Path]) -> str:
    with pytest.raises(Refusal) as refusal:
        canonicalise(read_series(files))
    return refusal.value.code


def odd_names(number: int) -> str:
    return ("IM-0001-{:04d}", "1.2.840.{}", "{}.ima", "slice {}.jpg", "MR{}")[number % 5].format(1000 - number)


def test_series_becomes_the_volume(tmp_path: Path) -> None:
    volume = read_series(write_series(tmp_path, scan(), in_plane=4.0)[::-1])
    assert volume.info["SeriesDescription"] == "AX T2 FSE"
    assert not any("Doe" in value or "P1" in value for value in volume.info.values())
    canonical = canonicalise(volume)
    expected = canonicalise(Volume(scan().transpose(2, 1, 0), affine_of(4.0, 4.0), "uint16"))
    assert np.array_equal(canonical.voxels, expected.voxels)
    assert np.allclose(canonical.affine, expected.affine, atol=1e-4)


@pytest.mark.parametrize("vendor", VENDORS)
def test_vendors(tmp_path: Path, vendor: str) -> None:
    assert hash_of(write_series(tmp_path, scan(), in_plane=4.0, Manufacturer=vendor, name=odd_names)) == truth(scan())


@pytest.mark.parametrize("encode", [run_length, by_gdcm("JPEG"), by_gdcm("JPEG2000")], ids=["RLE", "JPEG", "JPEG2000"])
def test_compressed_transfer_syntaxes(tmp_path: Path, encode: object) -> None:
    assert hash_of(write_series(tmp_path, scan(), in_plane=4.0, encode=encode)) == truth(scan())  # type: ignore[arg-type]


def test_jpeg_ls(tmp_path: Path) -> None:
    source = Path(str(get_testdata_file("MR_small_jpeg_ls_lossless.dcm")))
    plane = pydicom.dcmread(str(get_testdata_file("MR_small.dcm"))).pixel_array.astype(np.int64)
    files = write_series(tmp_path, np.zeros((5, 64, 64), np.uint16), encode=lambda data, _: take_pixels(data, source))
    volume = read_series(files)
    assert volume.array.shape == (64, 64, 5)
    assert np.array_equal(np.sort(volume.array[..., 2].reshape(-1)), np.sort(plane.reshape(-1)))


def test_enhanced_multi_frame(tmp_path: Path) -> None:
    assert hash_of([write_enhanced(tmp_path / "a", scan(), in_plane=4.0)]) == truth(scan())


def test_a_siemens_mosaic_is_taken_apart(tmp_path: Path) -> None:
    tiles = np.pad(
        scan()[:48], [(0, max(0, 48 - len(scan()))), (30, 128 - 30 - scan().shape[1]), (40, 128 - 40 - scan().shape[2])]
    )
    volume = read_series([write_mosaic(tmp_path / "a", tiles)])
    assert volume.array.shape == (128, 128, 48)
    assert np.allclose(np.linalg.norm(volume.affine[:3, :3], axis=0), [1.796875, 1.796875, 3], atol=1e-4)
    assert np.array_equal(np.sort(volume.array.reshape(-1)), np.sort(tiles.reshape(-1)))
    assert np.array_equal(canonicalise(volume).voxels[:, ::-1, ::-1] - 1, tiles)


@pytest.mark.slow
def test_philips_enhanced_mprage(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 500, (176, 256, 256), np.uint16)
    volume = read_series([write_philips(tmp_path / "a", frames)])
    assert sorted(volume.array.shape) == [176, 256, 256]
    assert np.allclose(np.linalg.norm(volume.affine[:3, :3], axis=0), 1, atol=1e-4)
    assert len(np.unique(volume.array)) == 500


def test_a_folder_of_several_series_gives_one_input_each(tmp_path: Path) -> None:
    first = write_series(tmp_path, scan(), in_plane=4.0, name="a{:03d}".format)
    second = write_series(tmp_path, scan() // 2, in_plane=4.0, name="b{:03d}".format)
    scout = write_series(tmp_path, scan()[::20], name="c{:03d}".format, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    found = {item.source_path: item for item in find_inputs(tmp_path, list_files(tmp_path))}
    assert [len(item.files) for item in found.values()] == [len(first), len(second), len(scout)]
    for name, voxels in (("a000", scan()), ("b000", scan() // 2)):
        assert hash_of([tmp_path / file for file in found[name].files]) == truth(voxels)
    assert refusal_of([tmp_path / file for file in found["c000"].files]) == "localizer"


@pytest.mark.parametrize(
    ("tags", "code"),
    [
        ({"modality": "CT"}, "not_mr"),
        ({"modality": "PT"}, "not_mr"),
        ({"SOPClassUID": SECONDARY_CAPTURE}, "not_mr"),
        ({"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}, "not_mr"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "P", "ND"]}, "derived_map"),
        ({"ImageType": ["DERIVED", "PRIMARY", "DIFFUSION", "ADC"]}, "derived_map"),
        ({"ImageType": ["DERIVED", "SECONDARY", "PROJECTION IMAGE"]}, "derived_map"),
        ({"PatientSpeciesDescription": "Canis lupus familiaris"}, "non_human"),
    ],
)
def test_what_the_header_says_is_no_scan(tmp_path: Path, tags: dict[str, object], code: str) -> None:
    assert refusal_of(write_series(tmp_path, scan(), in_plane=4.0, **tags)) == code  # type: ignore[arg-type]


def test_colour_is_refused(tmp_path: Path) -> None:
    files = write_series(tmp_path, scan(), in_plane=4.0)
    for file in files:
        data = pydicom.dcmread(file)
        grey = (data.pixel_array >> 1).astype(np.uint8)
        data.SamplesPerPixel, data.PhotometricInterpretation, data.PlanarConfiguration = 3, "RGB", 0
        data.BitsAllocated = data.BitsStored = 8
        data.HighBit, data.PixelData = 7, np.stack([grey] * 3, -1).tobytes() + b"\0" * (grey.size % 2)
        data.save_as(file)
    assert refusal_of(files) == "not_3d"


def test_too_few_slices_and_several_volumes(tmp_path: Path) -> None:
    assert refusal_of(write_series(tmp_path / "few", scan()[:3], in_plane=4.0)) == "too_few_slices"
    first = write_series(tmp_path / "two", scan(), in_plane=4.0, SeriesInstanceUID="1.2.3")
    wide = np.pad(scan(), [(0, 0), (0, 0), (0, 8)])
    second = write_series(tmp_path / "two", wide, in_plane=4.0, SeriesInstanceUID="1.2.3", name="w{}".format)
    assert refusal_of([*first, *second]) == "ambiguous_series"


def test_a_series_that_lacks_a_slice_is_refused_and_not_closed_up(tmp_path: Path) -> None:
    files = write_series(tmp_path, scan(), in_plane=4.0)
    assert refusal_of(files[:20] + files[21:]) == "uneven_slices"


def test_of_magnitude_and_phase_in_one_series_the_magnitude_is_taken(tmp_path: Path) -> None:
    phase = np.random.default_rng(0).integers(0, 4096, scan().shape, np.uint16)
    files = write_series(tmp_path, phase, in_plane=4.0, SeriesInstanceUID="1.2.3", ImageType=["ORIGINAL", "PRIMARY", "P"])
    files += write_series(tmp_path, scan(), in_plane=4.0, SeriesInstanceUID="1.2.3", name="m{}".format)
    assert hash_of(files) == truth(scan())


def test_a_time_series_is_refused_unless_one_volume_is_asked_for(tmp_path: Path) -> None:
    files = []
    for time in range(3):
        files += write_series(
            tmp_path, scan() + np.uint16(time * 50), in_plane=4.0, SeriesInstanceUID="1.2.3", name=f"{time}-{{:03d}}".format,
            AcquisitionNumber=time + 1, TemporalPositionIdentifier=time + 1, NumberOfTemporalPositions=3,
            AcquisitionTime=f"10000{time}.000", first=1 + time * len(scan()),
        )  # fmt: skip
    assert refusal_of(files) == "not_3d"
    assert canonicalise(read_series(files, reference_volume=True)).content_hash() == truth(scan())


def test_a_cut_series_is_refused(tmp_path: Path) -> None:
    files = write_series(tmp_path, scan(), in_plane=4.0)
    files[0].write_bytes(files[0].read_bytes()[:200])
    assert refusal_of(files[:1]) == "not_readable"


def test_a_file_without_preamble_is_dicom_too(tmp_path: Path) -> None:
    files = write_series(tmp_path / "part10", scan(), in_plane=4.0)
    bare = []
    for file in files:
        data = pydicom.dcmread(file)
        with pydicom.filebase.DicomFileLike(open(tmp_path / file.stem, "wb")) as stream:
            stream.is_little_endian, stream.is_implicit_VR = True, True
            pydicom.filewriter.write_dataset(stream, data)
        bare.append(tmp_path / file.stem)
        assert is_dicom(bare[-1])
    assert data.file_meta.TransferSyntaxUID != ImplicitVRLittleEndian
    assert series_tags(bare[0])["SeriesInstanceUID"] == series_tags(files[0])["SeriesInstanceUID"]
    assert hash_of(bare) == truth(scan())


def test_tags_and_recognition(tmp_path: Path) -> None:
    (file, *_) = write_series(tmp_path / "a", scan()[:1])
    assert is_dicom(file)
    assert series_tags(file)["PatientID"] == "P1"
    assert series_tags(file)["ImageType"] == "ORIGINAL\\PRIMARY\\OTHER"
    (tmp_path / "no").write_bytes(b"short")
    assert not is_dicom(tmp_path / "no")
    assert set(series_tags(tmp_path / "no").values()) <= {""}
