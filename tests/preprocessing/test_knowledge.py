"""Who and what a scan is: which adapter speaks, labels.csv over all of them, and the rows that are refused."""

import json
from pathlib import Path

import pytest

from mri_fm.errors import UserError
from mri_fm.volume.discover import find_inputs, list_files
from preprocessing.datasets.adapter import Knowledge
from preprocessing.knowledge import know
from preprocessing.privacy import pseudonym
from tests.volume.test_discover import touch

KEY = b"secret"


def learn(raw: Path, dataset: str = "auto", key: bytes = KEY) -> dict[str, Knowledge]:
    files = list_files(raw)
    return know(raw, files, find_inputs(raw, files), key, dataset)


def test_sidecar_speaks_where_the_name_does_not(tmp_path: Path) -> None:
    touch(tmp_path, "a.nii.gz", "b_T1.nii.gz", "c.nii", "d.nii")
    for name in ("a", "b_T1"):
        (tmp_path / f"{name}.json").write_text(json.dumps({"SeriesDescription": "Ax FLAIR", "EchoTime": 0.1}))
    (tmp_path / "c.json").write_text("[not an object")
    assert {p: k.contrast for p, k in learn(tmp_path).items()} == {
        "a.nii.gz": "FLAIR",
        "b_T1.nii.gz": "T1",
        "c.nii": "",
        "d.nii": "",
    }


def test_each_scan_is_told_by_its_own_layout(tmp_path: Path) -> None:
    touch(tmp_path, "IXI159-Guys-0810-T1.nii.gz", "ds000001/sub-1/anat/sub-1_T1w.nii", "x/IXI15-T1.nii")
    found = {path: (k.adapter, k.dataset) for path, k in learn(tmp_path).items()}
    assert found == {
        "IXI159-Guys-0810-T1.nii.gz": ("ixi", "IXI"),
        "ds000001/sub-1/anat/sub-1_T1w.nii": ("bids", "ds000001"),
        "x/IXI15-T1.nii": ("folder", "unknown"),
    }


def test_a_named_data_set_excludes_other_layouts_and_may_claim_what_another_would(tmp_path: Path) -> None:
    touch(tmp_path, "IXI159-Guys-0810-T1.nii.gz", "sub-OAS31092_ses-d0203_T2w.nii.gz", "sub-1/anat/sub-1_T1w.nii")
    assert {path: k.excluded for path, k in learn(tmp_path, "ixi").items()} == {
        "IXI159-Guys-0810-T1.nii.gz": "",
        "sub-OAS31092_ses-d0203_T2w.nii.gz": "not in the layout of ixi",
        "sub-1/anat/sub-1_T1w.nii": "not in the layout of ixi",
    }
    assert {(k.adapter, k.excluded) for k in learn(tmp_path, "folder").values()} == {("folder", "")}
    with pytest.raises(UserError, match="--dataset mars is no known data set: take auto, adni"):
        learn(tmp_path, "mars")


def test_bids_with_participants(tmp_path: Path) -> None:
    touch(tmp_path, "ds000001/sub-01/ses-b/anat/sub-01_ses-b_T1w.nii.gz", "ds000001/sub-02/anat/sub-02_FLAIR.nii.gz")
    (tmp_path / "ds000001/participants.tsv").write_text("participant_id\tage\tsize\nsub-01\t39\tL\n02\tn/a\tS\n")
    first, second = learn(tmp_path).values()
    assert (first.dataset, first.session, first.contrast) == ("ds000001", "ses-b", "T1")
    assert first.subject == first.base == pseudonym(KEY, "bids ds000001 sub-01")
    assert first.labels == {"age": "39", "participant_size": "L"}
    assert (second.session, second.contrast, second.labels["age"]) == ("", "FLAIR", "n/a")
    assert second.subject != first.subject


def test_of_a_tree_that_nobody_knows_no_name_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    touch(tmp_path, "Doe study/sub-JaneDoe/ses-19991231/anat/sub-JaneDoe_T1w.nii", "sub-JaneDoe/anat/sub-JaneDoe_T1w.nii")
    table = "participant_id\tage\tbirth_date\tgroup\nsub-JaneDoe\t39\t1960-02-03\tHC\n"
    (tmp_path / "Doe study/participants.tsv").write_text(table)
    inner, outer = learn(tmp_path).values()
    assert inner.labels == {"age": "39", "group": "HC"}
    assert "birth_date stay behind" in capsys.readouterr().err
    assert inner.subject != outer.subject
    assert inner.dataset != outer.dataset
    for knowledge in (inner, outer):
        assert not any(word in repr(knowledge) for word in ("Doe", "Jane", "1999", "1960", tmp_path.name))


def test_labels_overrule_bids(tmp_path: Path) -> None:
    touch(tmp_path, "ds/sub-01/anat/sub-01_T1w.nii.gz", "b.nii")
    (tmp_path / "labels.csv").write_text(
        "path,subject,contrast,kind,base,rendering,dose\n"
        "ds/sub-01/anat/sub-01_T1w.nii.gz,jane,T2,variant,colin,r7,1.5\n"
        "b.nii,,,,,,\n"
    )  # fmt: skip
    labelled, plain = learn(tmp_path)["ds/sub-01/anat/sub-01_T1w.nii.gz"], learn(tmp_path)["b.nii"]
    assert (labelled.dataset[:5], labelled.subject, labelled.contrast, labelled.kind, labelled.base) == (
        "bids-",
        "jane",
        "T2",
        "variant",
        "colin",
    )
    assert labelled.labels == {"rendering": "r7", "dose": "1.5"}
    assert (plain.kind, plain.labels) == ("individual", {})
    assert plain.subject.startswith("anon-")


@pytest.mark.parametrize("name", ["labels.csv", "participants.tsv"])
def test_a_table_in_another_encoding_is_named(tmp_path: Path, name: str) -> None:
    touch(tmp_path, "sub-01/anat/sub-01_T1w.nii")
    (tmp_path / name).write_bytes("path,städte\n".encode("latin-1"))
    with pytest.raises(UserError, match=f"{name} is no table in UTF-8"):
        learn(tmp_path)


def test_pseudonyms_need_the_key_and_join_contrasts_of_one_person(tmp_path: Path) -> None:
    touch(tmp_path, "doe_T1.nii", "doe_T2.nii", "roe_T1.nii", "p7/T1.nii", "p7/flair.nii", "p8/T1.nii")
    found = {p: k.subject for p, k in learn(tmp_path).items()}
    assert found["doe_T1.nii"] == found["doe_T2.nii"] != found["roe_T1.nii"]
    assert found["p7/T1.nii"] == found["p7/flair.nii"] != found["p8/T1.nii"]
    assert not any("doe" in subject for subject in found.values())
    assert pseudonym(KEY, "doe") != pseudonym(b"other", "doe")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("subject\nx\n", "no column 'path'"),
        ("path\nmissing.nii\n", "line 2: no scan at 'missing.nii'"),
        ("path\na.nii\na.nii\n", "line 3: 'a.nii' has a row already"),
        ("path,kind\na.nii,robot\n", "line 2: kind 'robot'"),
        ("path,scan_uid\nb.nii,1\n", "line 2: no scan at 'b.nii'"),
        ("path,contrast\na.nii,t1\n", "line 2: contrast 't1'"),
        ("path,checksum\na.nii,1\n", "the column 'checksum'"),
        ("path,note\na.nii,b,c\n", "line 2: more values than columns"),
        ("path,Subject\na.nii,b\n", "column 'Subject' must be written 'subject'"),
        ("path,note,note\na.nii,b,c\n", "column 3 has no name of its own, 'note'"),
        ("path,note,\na.nii,b,\n", "column 3 has no name of its own, ''"),
    ],
)
def test_bad_labels_name_the_row(tmp_path: Path, text: str, words: str) -> None:
    touch(tmp_path, "a.nii")
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(UserError, match=words) as error:
        learn(tmp_path)
    assert "\n" not in str(error.value)
