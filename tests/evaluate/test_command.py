"""The command, in process, on a small corpus with untrained weights."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from mri_fm.config import load_config
from mri_fm.errors import UserError
from mri_fm.evaluate.__main__ import main, parse
from mri_fm.evaluate.evaluation import Request, choose_encoder, evaluate, untrained
from mri_fm.evaluate.spec import label_task
from tests.s3 import S3Server

INTERVALS = ("interval", "random_init_interval", "gain_over_random_init_interval")
BASELINES = ("random_init", "raw_voxel", "nuisance", "supervised", "label_permutation")
FEW = ["--folds", "3", "--batch-size", "5", "--refits", "1", "--permutations", "5"]


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory, jepa_run: Path, labelled_corpus: Path) -> Path:
    out = tmp_path_factory.mktemp("probe") / "new" / "folder"
    words = ["--run", jepa_run, "--corpus", labelled_corpus, "--label", "atrophy", "--out", out, "--unit", "rendering"]
    main([*map(str, words), *FEW])
    return out


def test_result_holds_the_figures_and_where_they_come_from(evaluated: Path) -> None:
    result = json.loads((evaluated / "result.json").read_text())
    assert result["caption"] == "rendered, 3 base anatomies, no claim about people"
    assert result["classes"] == ["0", "1"]
    assert result["contrasts"] == ["FLAIR", "T1", "T2"]
    assert (result["n_volumes"], result["n_groups"], result["n_missing_label"]) == (24, 12, 2)
    assert (result["encoder"], result["objective"], result["step"]) == ("teacher", "jepa", 0)
    assert result["n_seen_in_pretraining"] == 18
    assert result["auroc"] == result["probes"]["linear"]["auroc"]
    assert set(result["probes"]) == {"linear", "attentive", "neighbours", "regions"}
    for probe in result["probes"].values():
        for name in INTERVALS:
            assert probe[name][0] <= probe[name][1]
    for name in BASELINES:
        assert 0 <= result[name]["auroc"] <= 1
    assert result["random_init"]["seeds"] == 3
    assert result["label_permutation"]["count"] == 5
    assert set(result["methods"]["raw_voxel"]) == {
        "auroc",
        "auprc",
        "balanced_accuracy",
        "accuracy",
        "f1",
        "ece",
        "ece_calibrated",
    }
    assert result["raw_voxel"]["interval"][0] <= result["raw_voxel_auroc"] <= result["raw_voxel"]["interval"][1]


def test_a_large_lesion_is_found_and_permuted_labels_are_not(evaluated: Path) -> None:
    result = json.loads((evaluated / "result.json").read_text())
    assert result["raw_voxel_auroc"] > 0.9
    assert result["auroc"] > 0.9
    assert result["label_permutation"]["auroc"] < 0.8
    assert result["label_permutation"]["p"] == pytest.approx(1 / 6)


def test_report_is_one_page_that_needs_nothing_else(evaluated: Path) -> None:
    page = (evaluated / "report.html").read_text()
    assert "rendered, 3 base anatomies, no claim about people" in page
    assert page.count("data:image/png;base64,") == 5 + 12 + 2 * 4  # figures, examples, two pictures of each unit in the viewer
    assert not re.search(r"(src|href)=[\"'](?!data:)", page)


def test_the_table_is_printed(
    jepa_run: Path, labelled_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--run", jepa_run, "--corpus", labelled_corpus, "--label", "contrast", "--out", tmp_path, "--unit", "key"]
    main(
        [
            *map(str, words),
            *FEW[2:],
            "--folds",
            "2",
            "--encoder",
            "student",
            "--contrasts",
            "T1",
            "FLAIR",
            "--crop",
            "whole",
            "--probes",
            "linear",
            "--view",
            "0",
        ]
    )
    printed = capsys.readouterr().out
    assert "contrast: FLAIR / T1, 17 volumes, contrasts FLAIR, T1" in printed
    page = (tmp_path / "report.html").read_text()
    assert "17 volumes (8 × FLAIR, 9 × T1); contrasts FLAIR, T1;" in page
    assert "<script" not in page
    assert re.search(r"linear probe, trained encoder +[01]\.\d{3} +\[0\.\d{3}, [01]\.\d{3}\]", printed)
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["encoder"], result["contrasts"], result["n_volumes"]) == ("student", ["FLAIR", "T1"], 17)
    assert result["input"] == {"plane": "spacing", "crop": "whole"}


@pytest.mark.slow
def test_a_corpus_on_s3_gives_the_same_figures(evaluated: Path, jepa_run: Path, labelled_corpus: Path, tmp_path: Path) -> None:
    with S3Server() as server:
        address = server.upload(labelled_corpus)
        words = ["--run", jepa_run, "--corpus", address, "--label", "atrophy", "--out", tmp_path, "--unit", "rendering"]
        main([*map(str, words), *FEW])
    here, there = (json.loads((folder / "result.json").read_text()) for folder in (evaluated, tmp_path))
    assert here.pop("n_seen_in_pretraining") == 18
    assert there.pop("n_seen_in_pretraining") is None  # another place
    assert here == there


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"run": Path("nowhere")}, "--run nowhere: no such folder"),
        ({"corpus": "nowhere"}, "nowhere/corpus.json is missing"),
        ({"out": Path(__file__)}, "test_command.py is a file"),
        ({"step": 7}, "no checkpoint of step 7, but of 0"),
        ({"label": "atropy"}, "did you mean 'atrophy'"),
        ({"label": "site"}, "all 24 labelled volumes are 'one'"),
        ({"label": "age"}, "are no classes"),
        ({"group": "subject", "folds": 5}, "3 groups by subject only"),
        ({"reader": "archive"}, "no readable sample to serve: v000 .*what it is stored in cannot be opened or read"),
        ({"contrasts": ("T3",)}, "contrasts T3: .*: FLAIR, T1, T2$"),
    ],
)
def test_bad_requests_end_in_one_line(
    change: dict[str, object], message: str, jepa_run: Path, labelled_corpus: Path, tmp_path: Path
) -> None:
    given: dict[str, Any] = {"label": "atrophy", "group": "rendering", "folds": 3, "contrasts": ()} | change
    task = label_task(*(given.pop(name) for name in ("label", "group", "folds", "contrasts")))
    fields = {"run": jepa_run, "corpus": str(labelled_corpus), "out": tmp_path} | given
    with pytest.raises(UserError, match=message) as caught:
        evaluate(Request(**fields, tasks={"x": task}, cache=tmp_path / "none"))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "result.json").exists()


def test_an_encoder_that_gives_no_numbers_is_refused(diverged_run: Path, labelled_corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"embedding of volume v\d+ is not finite"):
        evaluate(Request(diverged_run, str(labelled_corpus), tmp_path, {"x": label_task("atrophy", "rendering", 3, ())}))


@pytest.mark.parametrize("words", ["--folds 1", "--batch-size 0", "--random-seeds 2", "--task age", "--probes linaer"])
def test_numbers_that_cannot_be_are_refused(words: str) -> None:
    with pytest.raises(UserError, match=words.split()[0]):
        main(["--run", "r", "--corpus", "c", "--label", "l", "--out", "o", *words.split()])


def test_covariates_may_have_other_names() -> None:
    words = "--run r --corpus c --out o --task age adni_nc_vs_ad --covariates".split()
    for spec in parse([*words, "sex=gender", "site=centre"]).request.tasks.values():
        assert (spec.covariates.age, spec.covariates.sex, spec.covariates.site) == ("age", "gender", "centre")
    for wrong in ("gender=sex", "sex", "sex="):
        with pytest.raises(UserError, match=f"--covariates {wrong}: give NAME=COLUMN, where NAME is one of age, sex"):
            parse([*words, wrong])


def test_a_teacher_is_not_invented() -> None:
    words = ["model.width=24", "model.depth=1", "model.heads=2", "data.corpus=c", "run.dir=r"]
    mae = untrained(load_config("mae", words))
    assert choose_encoder(mae, None) == ("student", mae.student)
    with pytest.raises(UserError, match="no teacher"):
        choose_encoder(mae, "teacher")
    jepa = untrained(load_config("jepa", words))
    assert choose_encoder(jepa, None)[0] == "teacher"
    assert choose_encoder(jepa, "student")[1] is jepa.student
