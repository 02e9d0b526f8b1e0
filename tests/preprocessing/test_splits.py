"""Splits: subjects stay together, strata are shared out, the seed decides alone; and what is written comes back."""

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mri_fm.data.split_files import read_split
from mri_fm.errors import UserError
from preprocessing import build_shards, splits
from preprocessing.build import build
from preprocessing.splits import PARTS, Plan, draw, import_splits, make_splits, write_splits
from tests.corpora import SPEC
from tests.replicas import build_replica

STRATA = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=60)


def table(subjects: int = 40, scans: int = 2) -> pa.Table:
    """Scans of subjects with group 0 for one in four, two sites, one contrast each, and rows that are not to be split."""
    rows = [
        {"key": f"k{s}-{n}", "dataset": "d", "subject": f"s{s:02d}", "contrast": ("T1", "T2")[n % 2], "kind": "individual",
         "scan_uid": f"I{s}{n}", "group": float(s % 4 > 0), "site": ("x", "y")[s // 4 % 2], "pretraining_only": 0}
        for s in range(subjects) for n in range(scans)
    ]  # fmt: skip
    extra = rows[0] | {"subject": "t", "kind": "template"}, rows[0] | {"subject": "u", "pretraining_only": 1}
    return pa.Table.from_pylist([*rows, *extra, rows[0] | {"subject": "v", "group": None}])


def subjects_of(data: pa.Table, rows: list[int]) -> set[str]:
    return {data.column("subject")[row].as_py() for row in rows}


@given(STRATA, st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(0, 99))
def test_every_part_gets_its_share_of_all_and_of_each_stratum(strata: list[str], weights: list[int], seed: int) -> None:
    subjects = {number: (stratum,) for number, stratum in enumerate(strata)}
    shares = [w / sum(weights) for w in weights]
    parts = draw(subjects, shares, seed, 0)
    assert sorted(s for part in parts for s in part) == sorted(subjects)
    for part, share in zip(parts, shares, strict=True):
        assert abs(len(part) - share * len(subjects)) <= 1 + 1e-9
        for stratum, number in Counter(strata).items():
            assert abs(sum(subjects[s] == (stratum,) for s in part) - share * number) <= 2 + 1e-9


def test_a_split_keeps_subjects_together_and_leaves_out_what_has_no_label() -> None:
    data = table()
    (parts,) = make_splits(data, Plan("group", seed=3))
    people = {part: subjects_of(data, rows) for part, rows in parts.items()}
    assert {part: len(people[part]) for part in PARTS} == {"train": 28, "val": 6, "test": 6}
    assert sum(map(len, people.values())) == len(set.union(*people.values())) == 40
    assert all(2 * len(people[part]) == len(rows) for part, rows in parts.items())
    assert not {"t", "u", "v"} & set.union(*people.values())


@pytest.mark.parametrize("by", [(), ("site",)])
def test_folds_test_everybody_once_and_are_stratified(by: tuple[str, ...]) -> None:
    data = table()
    folds = make_splits(data, Plan("group", folds=5, by=by, seed=1))
    tested = [subject for parts in folds for subject in subjects_of(data, parts["test"])]
    assert sorted(tested) == sorted({f"s{s:02d}" for s in range(40)})
    for parts in folds:
        people = [subjects_of(data, parts[part]) for part in PARTS]
        assert sum(map(len, people)) == len(set.union(*people)) == 40
        assert sum(int(s[1:]) % 4 == 0 for s in people[2]) == 2
        assert not by or all(3 <= sum(int(s[1:]) // 4 % 2 == site for s in people[2]) <= 5 for site in (0, 1))
        assert 4 <= len(people[1]) <= 7


def test_the_seed_decides_and_the_order_of_rows_does_not() -> None:
    data = table()
    turned = data.take(list(range(data.num_rows))[::-1])
    plan = Plan("group", seed=4)
    one, other = make_splits(data, plan)[0], make_splits(turned, plan)[0]
    assert {p: subjects_of(data, r) for p, r in one.items()} == {p: subjects_of(turned, r) for p, r in other.items()}
    assert make_splits(data, Plan("group", seed=5)) != [one]


def test_classes_and_contrasts_are_chosen() -> None:
    data = table()
    (parts,) = make_splits(data, Plan("group", classes=("0",), contrasts=("T2",)))
    rows = sorted(row for part in parts.values() for row in part)
    assert {data.column("contrast")[row].as_py() for row in rows} == {"T2"}
    assert {data.column("group")[row].as_py() for row in rows} == {0.0}
    assert len(rows) == 10


@pytest.mark.parametrize(
    ("words", "plan"),
    [
        ("--label grup: the manifest has no such column, did you mean 'group'", {"label": "grup"}),
        ("--by sex: the manifest has no such column", {"label": "group", "by": ("sex",)}),
        ("no volume of the corpus has such a value", {"label": "group", "classes": ("7",)}),
        ("40 subjects have a value in 'group', too few for 41 parts", {"label": "group", "folds": 41}),
        ("--folds 1 must be at least 2", {"label": "group", "folds": 1}),
        ("--fractions 0 0.5 0.5 must", {"label": "group", "fractions": (0, 0.5, 0.5)}),
    ],
)
def test_mistakes_are_named(words: str, plan: dict) -> None:
    with pytest.raises(UserError, match=words):
        make_splits(table(), Plan(**plan))


@settings(max_examples=15)
@given(st.integers(0, 1000), st.sampled_from([0, 2, 5]))
def test_what_is_written_comes_back(tmp_path_factory: pytest.TempPathFactory, seed: int, folds: int) -> None:
    data, out = table(), tmp_path_factory.mktemp("splits")
    splits = make_splits(data, Plan("group", seed=seed, folds=folds))
    files = write_splits(out, "d_nc_vs_ad", data, splits, bool(folds))
    assert len(files) == 3 * len(splits)
    import_splits(data, files, out / "in")
    lines = [line.split(",") for line in (out / "in/assignments.csv").read_text().splitlines()[1:]]
    found = Counter((name, key) for name, key, _, _ in lines)
    keys = data.column("key").to_pylist()
    meant = Counter(
        (path.stem, keys[row])
        for path, rows in zip(files, (rows for parts in splits for rows in parts.values()), strict=True)
        for row in rows
    )
    assert found == meant


def test_missing_scans_are_listed_and_a_strange_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a_train_ids.csv"
    file.write_text("subject_id,scan_uid\ns00,I00\ns01,I00\ns77,I777\n")
    lines = import_splits(table(), [file], tmp_path / "out")
    assert lines == ["a_train_ids.csv: 1 of 3 scans here (1 volumes), 2 missing"]
    assert (tmp_path / "out/missing.csv").read_text().splitlines() == [
        "split,subject_id,scan_uid,note", "a_train_ids,s01,I00,\"here a scan of s00, t, u, v\"", "a_train_ids,s77,I777,"
    ]  # fmt: skip
    file.write_text("subject_id,scan_uid\nx,y\n")
    with pytest.raises(UserError, match="the corpus has none of its 1 scans"):
        import_splits(table(), [file], tmp_path / "out")


def test_commands_on_a_replica_and_people_held_out_of_pretraining(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Splits of a corpus are made, written in the published naming, read again, and kept out of the next build's training."""

    def run(main: Callable[[], None], *words: object) -> str:
        monkeypatch.setattr(sys, "argv", ["program", *map(str, words)])
        main()
        return capsys.readouterr().out

    raw, corpus, out = build_replica("nacc", tmp_path / "raw", people=8), tmp_path / "corpus", tmp_path / "out"
    build(raw, corpus, SPEC)
    asked = ["--label", "naccudsd", "--classes", 1, 4, "--folds", 2, "--name", "scan_downstream_fold{fold}_nc_vs_ad"]
    said = run(splits.main, "make", *asked, "--corpus", corpus, "--out", out)
    assert "fold 1: train 2 subjects (4 volumes)" in said
    assert (out / "scan_downstream_fold1_nc_vs_ad_test_ids.csv").is_file()
    scans = {scan for path in out.glob("*_test_ids.csv") for scan in read_split(path)}
    assert {subject for subject, _ in scans} == {f"NACC90000{n}" for n in (0, 1, 4, 5)}
    assert "0 missing" in run(splits.main, "import", *out.glob("*.csv"), "--corpus", corpus, "--out", tmp_path / "in")
    held = ["--raw", raw, "--out", tmp_path / "again", "--workers", 1, "--holdout", *out.glob("*_test_ids.csv")]
    run(build_shards.main, *held)
    rows = pq.read_table(tmp_path / "again/manifest.parquet").to_pylist()
    assert {row["subject"] for row in rows if row["split"] == "test"} == {subject for subject, _ in scans}
