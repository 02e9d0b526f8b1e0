"""What single headers say beyond `test_containers`: MetaImage, AFNI, PAR/REC, NIfTI, MINC, and names that mislead."""

import re
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from mri_fm.volume.canonical import canonicalise
from mri_fm.volume.read import read_volume
from mri_fm.volume.readers import named_voxels
from mri_fm.volume.refusal import Refusal
from tests.volume.containers import afni, metaimage, mgh, mif, minc1, nifti, nrrd_file

SAMPLES = Path(nibabel.__file__).parent / "tests" / "data"
VOXELS = np.random.default_rng(0).integers(0, 100, (6, 5, 4)).astype(np.int16)
AFFINE = np.array([[-2.0, 0, 0, 30], [0, 3.0, 0, -40], [0, 0, 4.0, 5], [0, 0, 0, 1]])


def refusal_of(path: Path) -> str:
    with pytest.raises(Refusal) as refusal:
        read_volume(path)
    assert "/" not in refusal.value.reason
    return refusal.value.code


def changed(path: Path, old: str, new: str) -> Path:
    content = path.read_bytes()
    assert old.encode() in content
    path.write_bytes(content.replace(old.encode(), new.encode()))
    return path


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("ElementDataFile = LOCAL", "ElementDataFile = ../a.raw", "not_readable"),
        ("ElementDataFile = LOCAL", "ElementDataFile = LIST", "not_readable"),
        ("DimSize = 6 5 4", "DimSize = 600 500 400", "truncated"),
        ("DimSize = 6 5 4", "DimSize = 6 5 5", "truncated"),
        ("NDims = 3", "Modality = MET_MOD_CT\nNDims = 3", "not_mr"),
        ("TransformMatrix = ", "Comment = ", "no_orientation"),
        ("MET_SHORT", "MET_STRING", "not_readable"),
        ("MET_SHORT\n", "MET_CHAR\nElementNumberOfChannels = 2\n", "not_3d"),
    ],
)
def test_metaimage_refusals(tmp_path: Path, old: str, new: str, code: str) -> None:
    assert refusal_of(changed(metaimage("a.mha", False)(tmp_path, VOXELS, AFFINE), old, new)) == code


def test_other_ways_to_store_a_metaimage_equal_simpleitk(tmp_path: Path) -> None:
    header, end, _ = metaimage("a.mha", False)(tmp_path, VOXELS, AFFINE).read_bytes().partition(b"LOCAL\n")
    swapped, numbers = VOXELS.astype(">i2").tobytes(order="F"), " ".join(map(str, VOXELS.reshape(-1, order="F"))).encode()
    msb = header.replace(b"ByteOrderMSB = False", b"ByteOrderMSB = True") + end + swapped
    text = header.replace(b"BinaryData = True", b"BinaryData = False") + end + numbers + b"\n"
    (tmp_path / "v.raw").write_bytes(b"preamble" + VOXELS.tobytes(order="F"))
    detached = header.replace(b"ElementType", b"HeaderSize = -1\nElementType") + b"v.raw\n"
    for name, content in (("msb.mha", msb), ("text.mha", text), ("last.mhd", detached)):
        (tmp_path / name).write_bytes(content)
        reference = sitk.ReadImage(str(tmp_path / name))
        volume = read_volume(tmp_path / name)
        assert np.array_equal(volume.array, sitk.GetArrayFromImage(reference).T), name
        assert np.array_equal(volume.array, VOXELS), name
        place = reference.TransformContinuousIndexToPhysicalPoint([5.0, 4.0, 3.0])
        assert np.allclose((volume.affine @ [5, 4, 3, 1])[:3] * [-1, -1, 1], place)


def test_a_compressed_metaimage_that_is_cut(tmp_path: Path) -> None:
    path = metaimage("a.mha", True)(tmp_path, VOXELS, AFFINE)
    path.write_bytes(path.read_bytes()[:-5])
    assert refusal_of(path) == "truncated"


def test_afni_statistics_are_refused(tmp_path: Path) -> None:
    write = afni("a+orig.BRIK")
    head = write(tmp_path, VOXELS, AFFINE).read_text()
    for statistic in (
        head.replace("3DIM_HEAD_ANAT", "3DIM_HEAD_FUNC").replace(" 0 2 0\n", " 0 3 0\n"),
        head + "\ntype = float-attribute\nname = BRICK_STATAUX\ncount = 4\n 0 3 1 20\n",
    ):
        (tmp_path / "a+orig.HEAD").write_text(statistic)
        assert refusal_of(tmp_path / "a+orig.HEAD") == "not_mr"


def test_samples_of_afni_and_philips() -> None:
    image = nibabel.load(SAMPLES / "scaled+tlrc.HEAD")
    volume = read_volume(SAMPLES / "scaled+tlrc.HEAD")
    assert np.allclose(volume.array, image.get_fdata()[..., 0])
    assert np.array_equal(volume.affine, image.affine)
    for name, code in (("example4d+orig.HEAD", "not_3d"), ("phantom_varscale.PAR", "not_3d"),
                       ("phantom_truncated.PAR", "not_readable"), ("R11_T2W_TSE.PAR", "not_readable")):  # fmt: skip
        assert refusal_of(SAMPLES / name) == code  # the last lacks its REC


def test_one_volume_of_par_rec(tmp_path: Path) -> None:
    for suffix in (".PAR", ".REC"):
        shutil.copy(SAMPLES / f"phantom_EPI_asc_CLEAR_2_1{suffix}", tmp_path / f"a{suffix}")
    rows = (tmp_path / "a.PAR").read_text().splitlines()
    first = [row for row in rows if not row.strip()[:1].isdigit() or row.split()[2] == "1"]  # the first of three dynamics
    text = re.sub(r"(Max. number of dynamics +: +)3", r"\g<1>1", "\n".join(first))
    (tmp_path / "a.PAR").write_text(text + "\n")
    image = nibabel.load(SAMPLES / "phantom_EPI_asc_CLEAR_2_1.PAR")
    volume = read_volume(tmp_path / "a.PAR")
    assert volume.array.shape == image.shape[:3]
    assert np.allclose(volume.affine, image.affine)
    nibabel.save(nibabel.Nifti1Image(volume.array, volume.affine), tmp_path / "a.nii")
    hashes = {canonicalise(read_volume(tmp_path / n), max_spacing=9).content_hash() for n in ("a.PAR", "a.nii")}
    assert len(hashes) == 1


def test_a_par_file_without_magnitude_is_refused(tmp_path: Path) -> None:
    for suffix in (".PAR", ".REC"):
        shutil.copy(SAMPLES / f"phantom_EPI_asc_CLEAR_2_1{suffix}", tmp_path / f"a{suffix}")
    lines = (tmp_path / "a.PAR").read_text().splitlines()
    phase = [
        " ".join([*words[:4], "3", *words[5:]]) if (words := line.split())[:1] and words[0].isdigit() else line
        for line in lines
    ]
    (tmp_path / "a.PAR").write_text("\n".join(phase) + "\n")
    assert refusal_of(tmp_path / "a.PAR") == "derived_map"


@pytest.mark.parametrize(("intent", "code"), [(3, "not_mr"), (5, "not_mr"), (1001, "derived_map"), (1002, "label")])
def test_nifti_intents(tmp_path: Path, intent: int, code: str) -> None:
    image = nibabel.Nifti1Image(VOXELS, AFFINE)
    image.header["intent_code"] = intent
    nibabel.save(image, tmp_path / "a.nii")
    assert refusal_of(tmp_path / "a.nii") == code


def test_the_qform_stands_in_for_an_sform_that_cannot_be_inverted(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(VOXELS, AFFINE)
    image.header["srow_x"] = image.header["srow_y"]
    nibabel.save(image, tmp_path / "b.nii")
    content = bytearray((tmp_path / "b.nii").read_bytes())
    content[252:254], content[280:296] = b"\1\0", content[296:312]
    (tmp_path / "a.nii").write_bytes(content)
    assert np.allclose(read_volume(tmp_path / "a.nii").affine, AFFINE)


def test_four_dimensional_minc_is_refused() -> None:
    for name in ("minc1_4d.mnc", "minc2_4d.mnc"):
        assert refusal_of(SAMPLES / name) == "not_3d"


def test_ecat_is_pet() -> None:
    assert refusal_of(SAMPLES / "tinypet.v") == "not_mr"


@pytest.mark.parametrize(
    "write",
    [nifti("a.nii"), mgh("a.mgh"), nrrd_file("a.nrrd", "raw"), metaimage("a.mha", False), mif("a.mif"), minc1],
    ids=["nifti", "mgh", "nrrd", "metaimage", "mif", "minc"],
)
@pytest.mark.parametrize("name", ["scan", "scan.nii.gz", "scan.mgz", "scan.dcm"])
def test_content_tells_the_format_and_not_the_name(tmp_path: Path, write: object, name: str) -> None:
    write(tmp_path, VOXELS, AFFINE).rename(tmp_path / name)  # type: ignore[operator]
    assert np.array_equal(read_volume(tmp_path / name).array, VOXELS)


def test_names_of_voxel_files(tmp_path: Path) -> None:
    for write, name in ((nrrd_file("a.nhdr", "raw"), "a.raw"), (metaimage("a.mhd", True), "a.zraw"), (mif("a.mih"), "a.dat")):
        assert named_voxels(write(tmp_path, VOXELS, AFFINE)) == name  # type: ignore[operator]
    assert named_voxels(mif("a.mif")(tmp_path, VOXELS, AFFINE)) == ""
    assert named_voxels(metaimage("a.mha", False)(tmp_path, VOXELS, AFFINE)) == ""
