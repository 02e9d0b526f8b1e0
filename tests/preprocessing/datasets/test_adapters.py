"""Each adapter on a replica of its data set: who, when, which contrast, which labels, and what is excluded by which rule."""

from datetime import date
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mri_fm.errors import UserError
from preprocessing.build import Spec, build
from preprocessing.datasets.adapter import Knowledge
from preprocessing.datasets.registry import ADAPTERS, claim
from tests.preprocessing.test_knowledge import learn
from tests.replicas import REPLICAS, build_replica
from tests.volume.test_dicom import write_series


def by_uid(root: Path, dataset: str = "auto") -> dict[str, Knowledge]:
    return {k.scan_uid: k for k in learn(root, dataset).values()}


def excluded(root: Path) -> dict[str, str]:
    return {k.scan_uid: k.excluded for k in learn(root).values() if k.excluded}


@pytest.mark.parametrize("name", ADAPTERS)
def test_every_adapter_knows_its_own_replica(tmp_path: Path, name: str) -> None:
    found = learn(build_replica(name, tmp_path / name, people=2, clean=True))
    assert {k.adapter for k in found.values()} == {name}
    assert not any(k.excluded for k in found.values())
    assert len({k.base for k in found.values()}) == 2
    assert learn(tmp_path / name, name) == found


def test_every_adapter_has_a_replica() -> None:
    assert set(REPLICAS) == set(ADAPTERS)


def test_adni(tmp_path: Path) -> None:
    root = build_replica("adni", tmp_path, people=6)
    found = by_uid(root)
    assert [found[f"I9000{p}0"].labels["adni_group"] for p in range(6)] == ["0", "2", "1", "3", "4", "5"]
    first, again, flair = found["I900000"], found["I900001"], found["I900015"]
    assert (first.dataset, first.subject, first.contrast) == ("ADNI", "900_S_9000", "T1")
    assert first.labels == {"adni_group": "0", "pretraining_only": "0", "sex": "F", "age": "73.6", "weight_kg": "62.5"}
    assert first.subject == again.subject
    assert first.session != again.session
    assert flair.session == found["I900010"].session
    assert (flair.contrast, flair.labels["sex"]) == ("FLAIR", "M")
    assert found["I909001"].labels == {"pretraining_only": "1"}
    assert excluded(root) == {"I909002": "spatially normalised"}
    assert not any("2016" in repr(k) for k in found.values())


def test_a_broken_xml_leaves_the_scan_for_pretraining(tmp_path: Path) -> None:
    root = build_replica("adni", tmp_path, people=1, clean=True)
    for path in root.rglob("*.xml"):
        path.write_text("<idaxs><project>")
    assert {k.labels["pretraining_only"] for k in learn(root).values()} == {"1"}


def test_nacc_takes_the_visit_nearest_in_date(tmp_path: Path) -> None:
    root = build_replica("nacc", tmp_path, people=4)
    found = by_uid(root)
    assert [found[f"I8000{p}0"].labels["naccudsd"] for p in range(4)] == ["1", "4", "3", "2"]
    first = found["I800001"]
    assert (first.dataset, first.subject, first.contrast) == ("NACC", "NACC900000", "FLAIR")
    assert first.labels == {"naccudsd": "1", "pretraining_only": "0", "sex": "M", "age": "77.0", "visit_days": "10",
                            "site": "77"}  # fmt: skip
    assert excluded(root) == {"I899002": "multi-echo", "I899003": "neither T1, T2, MPRAGE, FLAIR nor IR"}
    assert {uid: found[uid].labels["pretraining_only"] for uid in ("I899000", "I899001", "I899004")} == {
        "I899000": "1", "I899001": "1", "I899004": "0"}  # fmt: skip
    assert found["I899004"].labels["weight_kg"] == "68.0"
    assert found["I899004"].intensity.broken(2001, 500) == "mean 2001.0 above 2000"
    assert found["I899004"].intensity.broken(2000, 9.9) == "standard deviation 9.9 below 10"
    assert found["I899004"].intensity.broken(2000, 10) == ""


def test_nacc_ties_go_to_the_earlier_visit_and_other_codes_are_no_label(tmp_path: Path) -> None:
    root = build_replica("nacc", tmp_path, people=1, clean=True)
    head = "NACCID,NACCUDSD,SEX,BIRTHYR,WEIGHT,VISITYR,VISITMO,VISITDAY\n"
    (root / "investigator_nacc69.csv").write_text(
        f"{head}NACC900000,4,1,1945,150,2022,10,14\nNACC900000,3,1,1945,150,2022,10,10\nNACC900000,1,1,1945,150,,,\n"
    )
    assert by_uid(root)["I800000"].labels["naccudsd"] == "3"
    (root / "investigator_nacc69.csv").write_text(f"{head}NACC900000,8,1,1945,150,2022,10,14\n")
    labels = by_uid(root)["I800000"].labels
    assert (labels["pretraining_only"], "naccudsd" in labels) == ("1", False)


def test_oasis3(tmp_path: Path) -> None:
    root = build_replica("oasis3", tmp_path, people=3)
    found = by_uid(root)
    first, later, t2 = (found[f"OAS3900{n}"] for n in ("0_d0200_run-01_T1w", "0_d0900_T1w", "1_d0200_T2w"))
    assert (first.dataset, first.subject, first.session, first.contrast) == ("OASIS-3", "OAS39000", "d0200", "T1")
    assert first.labels == {"cdrtot": "0", "pretraining_only": "0", "visit_days": "-10", "sex": "M", "age": "61.0"}
    assert (later.labels["age"], later.labels["visit_days"]) == ("63.0", "-710")
    assert (t2.contrast, t2.labels["cdrtot"], t2.labels["sex"]) == ("T2", "1", "F")
    assert found["OAS39999_d0010_T1w"].labels == {"pretraining_only": "1"}
    assert excluded(root) == {
        "OAS39999_d0010_task-rest_run-01_bold": "folder func",
        "OAS39999_d0010_run-01_T2star": "folder swi",
        "OAS39999_d0010_acq-TOF_angio": "tof by name",
    }


def test_ppmi(tmp_path: Path) -> None:
    root = build_replica("ppmi", tmp_path, people=5)
    found = by_uid(root)
    assert [found[f"I92000{p}"].labels["ppmi_group"] for p in range(5)] == ["0", "1", "2", "3", "4"]
    assert (found["I920003"].dataset, found["I920003"].subject, found["I920003"].contrast) == ("PPMI", "90003", "T1")
    assert excluded(root) == {"I929000": "T2 in the space of the T1"}


def test_abide1_in_both_layouts(tmp_path: Path) -> None:
    root = build_replica("abide1", tmp_path, people=4)
    found = by_uid(root)
    loni, indi = found["I930000"], found["51903_session_1_anat_1"]
    assert (loni.subject, loni.contrast, loni.labels) == ("51900", "T1", {
        "autism": "1", "pretraining_only": "0", "sex": "M", "age": "12.4", "site": "NYU"})  # fmt: skip
    assert (indi.subject, indi.contrast, indi.labels["autism"], indi.labels["site"]) == ("51903", "T1", "0", "UCLA_1")
    assert found["I939000"].labels == {"pretraining_only": "1"}
    assert excluded(root) == {"51903_session_1_rest_1": "functional"}


def test_brats_names_four_images_by_their_session(tmp_path: Path) -> None:
    found = learn(build_replica("brats2024", tmp_path, people=1))
    kept = {(k.session, k.labels["series"]): k for k in found.values() if not k.excluded}
    assert {series: k.contrast for (_, series), k in kept.items()} == {"t1n": "T1", "t1c": "T1", "t2w": "T2", "t2f": "T2"}
    assert {session: k.scan_uid for (session, _), k in kept.items()} == {
        "100": "BraTS-GLI-90000-100", "101": "BraTS-GLI-90000-101"}  # fmt: skip
    assert {k.subject for k in found.values()} == {"90000"}
    assert {p.rpartition("-")[2]: k.excluded for p, k in found.items() if k.excluded} == {"seg.nii.gz": "segmentation"}


def test_ucsf_pdgm_writes_people_as_its_table_and_scans_as_its_files(tmp_path: Path) -> None:
    root = build_replica("ucsf_pdgm", tmp_path, people=3)
    found = by_uid(root)
    assert [found[f"UCSF-PDGM-090{p}_T1"].labels["tumor_grade"] for p in range(3)] == ["2", "4", "3"]
    contrast, adc = found["UCSF-PDGM-0901_T1c"], found["UCSF-PDGM-0901_ADC"]
    assert (contrast.subject, contrast.contrast, contrast.labels["series"]) == ("UCSF-PDGM-901", "T1", "T1c")
    assert (adc.contrast, adc.labels["series"], adc.labels["age"]) == ("", "ADC", "51.0")
    assert (adc.labels["survival_days"], adc.labels["died"]) == ("300", "0")
    assert set(excluded(root).values()) == {"segmentation", "neither T1, T1c, T2, FLAIR, DWI nor ADC"}


def test_ixi_and_mood(tmp_path: Path) -> None:
    ixi = by_uid(build_replica("ixi", tmp_path / "ixi", people=3))
    assert {uid: (k.subject, k.contrast) for uid, k in ixi.items()} == {
        "I900": ("900", "T1"), "I901": ("901", "T1"), "I902": ("902", "T1"), "I900_T2": ("900", "T2")}  # fmt: skip
    assert ixi["I901"].labels == {"site": "HH", "sex": "F", "age": "31.8"}
    mood = learn(build_replica("mood", tmp_path / "mood", people=2))
    assert {(k.subject, k.scan_uid, k.contrast, k.excluded) for k in mood.values()} == {
        ("00000", "00000", "T1", ""), ("00001", "00001", "T1", ""), ("00000", "00000", "T1", "no brain")}  # fmt: skip


def test_bids_people_and_folders_become_pseudonyms(tmp_path: Path) -> None:
    root = build_replica("bids", tmp_path / "Doe Jane", people=4)
    found = list(learn(root).values())
    assert len({k.subject for k in found}) == 4
    assert all(k.subject.startswith("anon-") and k.dataset.startswith("bids-") for k in found)
    assert not any(word in repr(found) for word in ("Doe", "Jane", "sub-0"))
    assert found[0].labels == {"age": "40", "sex": "F", "group": "depr"}
    assert {k.session for k in found} == {"ses-1"}
    assert {k.subject for k in learn(root, key=b"other").values()}.isdisjoint(k.subject for k in found)


def test_a_table_without_its_columns_or_twice_is_named(tmp_path: Path) -> None:
    root = build_replica("nacc", tmp_path, people=1)
    table = root / "investigator_nacc69.csv"
    (root / "investigator_nacc70.csv").write_bytes(table.read_bytes())
    with pytest.raises(UserError, match=r"2 tables for one purpose, investigator_nacc69\.csv and investigator_nacc70\.csv"):
        learn(root)
    (root / "investigator_nacc70.csv").unlink()
    table.write_text("NACCID,NACCUDSD\nNACC900000,1\n")
    with pytest.raises(UserError, match="lacks the column SEX"):
        learn(root)
    table.write_bytes(b"NACCID,\xff\n\xff\xfe,1\n")
    with pytest.raises(UserError, match="no table in UTF-8"):
        learn(root)


@pytest.mark.parametrize(
    "path",
    ["NACC12345/MPRAGE_2022-01-01_I1.nii", "03_S_1257/a/2010-01-01_1/I1/ADNI_03_S_1257_MR_a_I1.nii", "IXI15-Guys-0810-T1.nii",
     "BraTS-GLI-2597-100-t1n.nii.gz", "sub-OAS1092_ses-d0203_T2w.nii.gz", "brain_train/jane.nii.gz", "UCSF-PDGM-04_T1.nii",
     "0042642/session_1/anat_1/mprage.nii.gz"],
)  # fmt: skip
def test_ids_that_do_not_match_the_pattern_are_not_taken(path: str) -> None:
    assert claim(path)[0].name == "folder"


DESCRIPTIONS = st.text(
    st.characters(codec="ascii", categories=("L", "N"), include_characters="_-*.() "), min_size=1, max_size=20
)


@given(
    st.integers(0, 999),
    st.integers(0, 99_999),
    DESCRIPTIONS,
    st.dates(),
    st.integers(0, 10**8),
    st.sampled_from(["", "raw/x/"]),
)
def test_loni_paths_are_read_whatever_the_description(
    site: int, number: int, description: str, day: date, image: int, above: str
) -> None:
    subject = f"{site:03d}_S_{number:04d}"
    name = f"ADNI_{subject}_MR_{description}_Br_20080207172342811_S40051_I{image}.nii"
    adapter, match = claim(f"{above}{subject}/{description}/{day.isoformat()}_10_48_45.0/I{image}/{name}")
    assert (adapter.name, match["subject"], match["image"], match["date"]) == ("adni", subject, f"I{image}", day.isoformat())
    assert match["description"] == description


@given(st.integers(0, 999_999), DESCRIPTIONS, st.none() | st.dates(), st.integers(0, 10**8))
def test_nacc_names_are_read_with_and_without_a_date(number: int, description: str, day: date | None, image: int) -> None:
    when = "" if day is None else f"_{day.isoformat()}_14_49_23.0"
    adapter, match = claim(f"SCAN/NACC{number:06d}/{description}{when}_I{image}.nii.gz")
    assert (adapter.name, match["subject"], match["image"]) == ("nacc", f"NACC{number:06d}", f"I{image}")
    assert match["description"] == description


@given(st.text(max_size=60))
def test_any_path_has_exactly_one_adapter(path: str) -> None:
    adapter, match = claim(path)
    assert adapter.pattern.search(path)
    assert match is not None


def test_a_dicom_export_is_told_by_its_slices(tmp_path: Path) -> None:
    folder = tmp_path / "ADNI/003_S_1257/MP-RAGE/2007-03-14_10_48_45.0/I45108"
    for number, file in enumerate(write_series(folder, np.ones((3, 4, 4), np.uint16))):
        file.rename(folder / f"ADNI_003_S_1257_MR_MP-RAGE_br_raw_2007_{number}_S29023_I45108.dcm")
    ((path, found),) = learn(tmp_path).items()
    assert path == "ADNI/003_S_1257/MP-RAGE/2007-03-14_10_48_45.0/I45108"
    assert (found.subject, found.scan_uid, found.contrast) == ("003_S_1257", "I45108", "T1")


def test_maps_and_contrasts_that_a_task_needs_survive_the_build(tmp_path: Path) -> None:
    raw = build_replica("ucsf_pdgm", tmp_path / "raw", people=1)
    build(raw, tmp_path / "corpus", Spec(val_fraction=0))
    rows = pq.read_table(tmp_path / "corpus/manifest.parquet").to_pylist()
    assert sorted(row["series"] for row in rows) == ["ADC", "DWI", "FLAIR", "T1", "T1_bias", "T1c", "T2"]
    assert {row["contrast"] for row in rows if row["series"] in ("ADC", "DWI")} == {"OTHER"}
    assert {row["tumor_grade"] for row in rows} == {2}
