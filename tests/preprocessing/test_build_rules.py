"""What decides a corpus besides its scans: rules of data sets, names of duplicates, processing."""

import shutil
from pathlib import Path

import nibabel
import numpy as np

from mri_fm.volume.processing import Processing
from preprocessing.build import Spec, build, summary
from tests.corpora import SPEC, resampled, write_labels
from tests.preprocessing.test_build import ledger, manifest
from tests.replicas import build_replica


def test_a_phantom_is_no_brain(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    for name, seed in (("head.nii", 1), ("bottle.nii", 2)):
        nibabel.save(resampled((6, 5, 5), seed=seed), raw / name)
    write_labels(raw, ["path", "kind"], [["head.nii", "individual"], ["bottle.nii", "phantom"]])
    counts = build(raw, tmp_path / "corpus")[0]["counts"]
    assert (counts["accepted"], counts["distinct_brains"]) == (2, 1)


def test_a_data_set_by_its_rules(tmp_path: Path) -> None:
    """Exclusions by path and by intensity are in the ledger, ids and labels in the manifest, and tables may change later."""
    raw = build_replica("nacc", tmp_path / "raw", people=2)
    content, _ = build(raw, tmp_path / "corpus", SPEC)
    rules = {path.rpartition("_")[2]: row["reason"] for path, row in ledger(tmp_path / "corpus").items() if row["code"]}
    assert {row["code"] for row in ledger(tmp_path / "corpus").values()} == {"", "excluded_by_rule"}
    assert rules["I899002.nii.gz"] == "NACC: multi-echo"
    assert rules["I899004.nii.gz"].startswith("NACC: mean ")
    assert rules["I899005.nii.gz"].startswith("NACC: standard deviation ")
    rows = {row["scan_uid"]: row for row in manifest(tmp_path / "corpus").values()}
    assert sorted(rows) == ["I800000", "I800001", "I800010", "I800011", "I899000", "I899001"]
    assert (rows["I800010"]["subject"], rows["I800010"]["naccudsd"], rows["I899000"]["naccudsd"]) == ("NACC900001", 4, None)
    assert (content["counts"]["by_layout"], content["counts"]["pretraining_only"]) == ({"nacc": 10}, 2)
    assert "layouts: nacc 10" in summary(content)
    (raw / "investigator_nacc69.csv").write_text((raw / "investigator_nacc69.csv").read_text().replace(",4,", ",3,"))
    assert build(raw, tmp_path / "corpus", SPEC)[1]
    assert {row["scan_uid"]: row for row in manifest(tmp_path / "corpus").values()}["I800010"]["naccudsd"] == 3


def test_names_of_duplicates_stay_known(tmp_path: Path) -> None:
    raw = build_replica("adni", tmp_path / "raw", people=2, clean=True)
    first = next(raw.rglob("*_I900000.nii"))
    shutil.copy(first, first.with_name(first.name.replace("I900000", "I900099")))
    build(raw, tmp_path / "corpus", SPEC)
    row = next(row for row in manifest(tmp_path / "corpus").values() if row["scan_uid"] == "I900000")
    assert row["duplicate_uids"] == "I900099"


def test_what_is_done_to_volumes_is_part_of_the_specification(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    image = resampled((5, 4, 4))
    nibabel.save(image, raw / "a.nii.gz")
    nibabel.save(resampled((5, 5, 4), seed=4), raw / "b.nii.gz")
    mask = nibabel.Nifti1Image((np.asarray(image.dataobj) > 60).astype(np.uint8), image.affine)
    nibabel.save(mask, raw / "a_mask.nii.gz")
    plain = build(raw, tmp_path / "corpus")[0]
    resampled_too = build(raw, tmp_path / "corpus", Spec(processing=Processing(n4=True, resample=5.0)))[0]
    assert plain["spec_hash"] != resampled_too["spec_hash"]
    assert resampled_too["spec"]["processing"] == {"brain": "foreground", "n4": True, "resample": 5.0}
    assert all(row["spacing"] == [5.0] * 3 for row in manifest(tmp_path / "corpus").values())
    masked = Spec(processing=Processing(brain="mask"))
    build(raw, tmp_path / "corpus", masked)
    assert {path: row["code"] for path, row in ledger(tmp_path / "corpus").items()} == {
        "a.nii.gz": "",
        "a_mask.nii.gz": "label",
        "b.nii.gz": "no_brain_mask",
    }
    (row,) = manifest(tmp_path / "corpus").values()
    assert round(row["foreground_fraction"] * np.prod(row["shape"])) == (np.asarray(image.dataobj) > 60).sum()
    wider = nibabel.Nifti1Image((np.asarray(image.dataobj) > 20).astype(np.uint8), image.affine)
    nibabel.save(wider, raw / "a_mask.nii.gz")  # a change of the mask is a change of the input
    build(raw, tmp_path / "corpus", masked)
    (row,) = manifest(tmp_path / "corpus").values()
    assert round(row["foreground_fraction"] * np.prod(row["shape"])) == (np.asarray(image.dataobj) > 20).sum()
