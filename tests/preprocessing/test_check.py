"""The check on real corpora: proven where nobody is on two sides, and each way of being there is found."""

import csv
import sys
from dataclasses import replace
from pathlib import Path

import nibabel
import pytest
from nibabel.processing import resample_to_output

from mri_fm.data.corpus import Corpus
from mri_fm.errors import UserError
from preprocessing import check
from preprocessing.build import Spec, build
from tests.replicas import build_replica
from tests.replicas.people import changed, head

SPEC = Spec(val_fraction=0.0, shard_bytes=10_000_000)


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """IXI; MOOD, of other people; the same with one of IXI's heads, resampled and brighter, under another name."""
    root = tmp_path_factory.mktemp("check")
    build_replica("ixi", root / "ixi", people=4)
    build_replica("mood", root / "mood", people=3, clean=True)
    build_replica("mood", root / "leaky", people=3, clean=True)
    copy = changed(resample_to_output(head(5001), (4, 4.5, 5), order=1), lambda v: 3 * v + 10)
    nibabel.save(copy, root / "leaky/mood/brain_train/00777.nii.gz")
    for name in ("ixi", "mood", "leaky"):
        build(root / name, root / f"{name}-corpus", SPEC)
    return {name: root / f"{name}-corpus" for name in ("ixi", "mood", "leaky")}


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["check", "--workers", "1", *map(str, words)])
    return check.main()


def test_disjoint_corpora_are_proven_and_fingerprints_are_kept(
    corpora: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--corpus", corpora["ixi"], corpora["mood"]) == 0
    assert "proven: nobody is on two sides" in capsys.readouterr().out
    assert (corpora["ixi"] / check.CACHE_FILE).stat().st_mode & 0o777 == 0o600
    cache = corpora["ixi"] / check.CACHE_FILE
    cache.write_bytes(cache.read_bytes()[:-9])  # a cut one is made again
    assert run(monkeypatch, "--corpus", corpora["ixi"], corpora["mood"]) == 0
    (sample, *_) = Corpus.open(corpora["mood"]).samples
    monkeypatch.setattr(check, "fingerprint_samples", lambda task: pytest.fail("computed again"))
    assert run(monkeypatch, "--corpus", corpora["ixi"], corpora["mood"]) == 0
    assert check._cached_name(sample) != check._cached_name(replace(sample, checksum="0" * 16))


def test_a_resampled_copy_under_another_name_is_found(
    corpora: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(monkeypatch, "--corpus", corpora["ixi"], corpora["leaky"], "--out", tmp_path / "leaks.csv") == 2
    (row,) = csv.DictReader((tmp_path / "leaks.csv").open())
    assert (row["kind"], row["subject_id_a"], row["subject_id_b"]) == ("near_duplicate", "901", "00777")
    assert "LEAK: 1 near_duplicate" in capsys.readouterr().out


def test_a_copy_of_the_corpus_shares_everything(
    corpora: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--corpus", corpora["mood"], corpora["leaky"]) == 2
    assert "LEAK: 3 subject" in capsys.readouterr().out


def test_split_files_and_what_is_pretrained_on(
    corpora: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def split(name: str, *scans: str) -> Path:
        path = tmp_path / name
        path.write_text("subject_id,scan_uid\n" + "".join(f"{uid[1:4]},{uid}\n" for uid in scans))
        return path

    pretrain, train = split("ixi_pretrain_ids.csv", "I903"), split("d_train_ids.csv", "I900", "I902")
    test, other_fold = split("d_test_ids.csv", "I901", "I999"), split("d_fold1_test_ids.csv", "I902")
    files = ["--splits", pretrain, train, test, other_fold]
    assert run(monkeypatch, "--corpus", corpora["ixi"], *files) == 0
    assert "1 scans of the split files are in none of the corpora" in capsys.readouterr().out
    leaky = split("d_val_ids.csv", "I900_T2")
    assert run(monkeypatch, "--corpus", corpora["ixi"], *files, leaky) == 2
    assert "I900 in d_train_ids.csv, 900 I900_T2 in d_val_ids.csv" in capsys.readouterr().out
    assert run(monkeypatch, "--corpus", corpora["ixi"], "--splits", train, test) == 2
    assert "in pretraining, 901 I901 in d_test_ids.csv" in capsys.readouterr().out
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match=r"another of the files is called d_test_ids\.csv too"):
        run(monkeypatch, "--corpus", corpora["ixi"], "--splits", test, split("other/d_test_ids.csv", "I902"))


def test_the_splits_of_one_corpus(corpus: Path, corpora: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    sides, absent = check.sides_of([Corpus.open(corpus)], [])
    assert (sides.names, absent) == (("train", "val"), 0)
    with pytest.raises(UserError, match="has the split train alone"):
        run(monkeypatch, "--corpus", corpora["ixi"])
